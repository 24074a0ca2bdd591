"""From CSV files to staged rows: which files, what is wrong with them, what is kept."""
