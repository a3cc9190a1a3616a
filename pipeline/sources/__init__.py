"""Where scenes come from: STAC catalogs, items of many providers, radiometry, and which hrefs are opened."""
