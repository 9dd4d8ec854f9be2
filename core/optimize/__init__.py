"""The ONNX side of the lab: building the graph, adapters as its optional inputs, and checking both."""
