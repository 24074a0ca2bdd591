"""Settings, data contracts and layouts, read from `conf/` and checked."""
