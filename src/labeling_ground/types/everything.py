"""What «segment everything» is asked with."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EverythingOptions:
    """The grid, and which of the masks found on it are kept. Names are the reference implementation's.

    Attributes:
        points_per_side: the grid has so many points along each side of the image.
        pred_iou_thresh: least score of a mask, 0..1; it must be above this. 0 lets all pass.
        stability_score_thresh: least stability of a mask, 0..1. 0 lets all pass.
        stability_score_offset: by so much the threshold on logits is moved up and down to measure the stability.
        box_nms_thresh: of two masks whose boxes have a larger IoU than this, the better-scored one is kept.
        min_mask_region_area: holes and islands of fewer pixels are filled and removed; 0 leaves masks as they are.
    """

    points_per_side: int = 32
    pred_iou_thresh: float = 0.88
    stability_score_thresh: float = 0.95
    stability_score_offset: float = 1.0
    box_nms_thresh: float = 0.7
    min_mask_region_area: int = 0
