"""What people open: COGs, thumbnail, report page, STAC items and catalog."""
