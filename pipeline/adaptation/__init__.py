"""``spex adapt``: a checkpoint for one region and one legend, from a survey's points or polygons."""
