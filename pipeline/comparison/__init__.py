"""A map or a prediction beside a reference: confusion, objects, boundaries, calibration, published figures."""
