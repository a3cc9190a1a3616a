"""Pixels: windows of remote files as harmonised surface reflectance, cloud-masked and composited."""
