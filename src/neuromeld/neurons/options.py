from typing import Literal
from dataclasses import dataclass
@dataclass
class Neurons:
    selector: str = "wanda"
    compensate: str = "ridge"
    target: str = "narrowed"
