"""Images, masks and data sets from files."""
