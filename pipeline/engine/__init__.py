"""The engine: blocks of a plan read, classified and finished on Ray with bounded memory, surviving failures."""
