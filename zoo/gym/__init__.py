"""Any environment that gymnasium knows by an id."""
