"""The service: sources, decoders, stages, configuration, web."""
