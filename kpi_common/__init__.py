"""What the Spark application and the pipeline share: files, configuration files, logging, errors, keys of tables."""
