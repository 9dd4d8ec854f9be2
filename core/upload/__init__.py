"""The model sent to an Azure ML workspace and registered there."""
