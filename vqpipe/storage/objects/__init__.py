"""Object stores: the door to obstore, a place in a store, and a store as Zarr wants it."""
