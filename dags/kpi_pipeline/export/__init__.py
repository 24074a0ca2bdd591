"""The export of the Spark application: read and delivered."""
