"""DataComp's own aggregates: which tasks make a number that papers report (upstream ``aggregate_scores.py``)."""

_VTAB = "caltech101 cifar100 clevr_count_all clevr_closest_object_distance dtd eurosat"
_VTAB += " kitti_closest_vehicle_distance flowers pets pcam resisc45 svhn"

GROUPS: dict[str, tuple[str, ...]] = {
    "ImageNet": ("imagenet1k",),
    "ImageNet dist. shifts": (
        "imagenet_sketch", "imagenetv2", "imagenet-a", "imagenet-o", "imagenet-r", "objectnet",
    ),
    "VTAB": (*(f"vtab/{name}" for name in _VTAB.split()), "sun397"),
    "Retrieval": (
        "retrieval/flickr_1k_test_image_text_retrieval",
        "retrieval/mscoco_2014_5k_test_image_text_retrieval",
        "misc/winogavil",
    ),
}  # fmt: skip
"""Task keys by the group whose unweighted mean is reported."""

_REST = "cifar10 country211 fgvc_aircraft food101 gtsrb mnist voc2007 renderedsst2 cars stl10 wilds/iwildcam"
_REST += " wilds/camelyon17 wilds/fmow fairness/dollar_street fairness/geode"

SCORED: frozenset[str] = frozenset([*_REST.split(), *(key for keys in GROUPS.values() for key in keys)])
"""Keys of the 38 tasks whose unweighted mean is the average."""
