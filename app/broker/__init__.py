"""A real Apache Kafka as a child process, for development, the demo and the tests."""
