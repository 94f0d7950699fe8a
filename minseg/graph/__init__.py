"""The graph and the readers that make one from a file."""

from minseg.graph.model import Attribute, Dim, Graph, Node, TensorType, Value

__all__ = ["Attribute", "Dim", "Graph", "Node", "TensorType", "Value"]
