"""Assignment, encoding and FAISS indexes. The only room that knows FAISS."""

from vqpipe.quantizer.assign import (
    Route,
    choose_route,
    choose_search,
    compared_codewords,
    first_probes,
    more_probes,
    probes_to_judge,
)
from vqpipe.quantizer.quantizer import Quantizer

__all__ = [
    "Quantizer",
    "Route",
    "choose_route",
    "choose_search",
    "compared_codewords",
    "first_probes",
    "more_probes",
    "probes_to_judge",
]
