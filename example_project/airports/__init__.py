"""The application of the example project: airports and their weather."""
