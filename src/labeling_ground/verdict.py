"""What was found when one engine, in one precision, was tried on this machine."""

from dataclasses import dataclass

INT8 = "int8"
"""What ``Verdict.embedding`` says of embeddings in int8."""
CLICKS_PER_IMAGE = 10
"""How many clicks weigh as much as one image, when engines are compared."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """How fast an engine is in one precision, and how well its masks agree with those of fp32.

    Attributes:
        engine: its name.
        precision: in which it computes.
        encode_s: seconds for one image.
        decode_s: seconds for one click.
        masks: how many masks were compared with those of fp32; 0: none that says anything.
        least_iou: the least overlap (intersection over union) of a mask with that of fp32.
        mean_iou: the mean of these.
        failed: why it cannot compute here, or was not tried; empty where it was.
        embedding: ``int8`` where what was compared is masks of embeddings in int8 with those of the same embeddings in
            fp16, both by this engine; empty else.
        source: ``load`` (compared on two drawn pictures when the model was loaded) or ``check`` (on photographs, by
            ``models check``).
    """

    engine: str
    precision: str
    encode_s: float = 0.0
    decode_s: float = 0.0
    masks: int = 0
    least_iou: float = 0.0
    mean_iou: float = 0.0
    failed: str = ""
    source: str = "load"
    embedding: str = ""

    @property
    def total_s(self) -> float:
        """Seconds for one image and the clicks that it gets."""
        return self.encode_s + CLICKS_PER_IMAGE * self.decode_s

    def agrees(self, least_iou: float) -> bool:
        """Whether each mask overlaps by so much with the one it was compared with, and there was one to compare."""
        return not self.failed and self.masks > 0 and self.least_iou >= least_iou

    @property
    def agreement(self) -> str:
        """The comparison with fp32 as a sentence."""
        if not self.masks:
            return "Its masks could not be compared with those of fp32: all were empty, or all of the image."
        where = "photographs" if self.source == "check" else "drawn pictures"
        return (
            f"Measured here on {where}: {self.masks} masks overlap with those of fp32 (IoU) by {self.mean_iou:.1%} on "
            f"average, by {self.least_iou:.1%} at least."
        )
