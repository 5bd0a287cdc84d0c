"""The values that TensorFlow Hub's documentation pages may carry as tags.

From the tags directory of the tensorflow/tfhub.dev repository, as far as they
bear on models of images. To allow another value, find it there first.
"""

KINDS = ("Module", "Lite", "Tfjs", "Collection", "Publisher")

REQUIRED = {
    "Module": ("asset-path", "fine-tunable", "format", "task"),
    "Lite": ("asset-path", "parent-model"),
    "Tfjs": ("asset-path", "parent-model"),
    "Collection": ("task",),
    "Publisher": (),
}
OPTIONAL = {
    "Module": ("network-architecture", "colab", "dataset", "language",
               "license", "interactive-visualizer"),
    "Lite": ("colab", "interactive-visualizer"),
    "Tfjs": ("colab", "interactive-visualizer"),
    "Collection": ("dataset", "language", "network-architecture"),
    "Publisher": (),
}
# All other tags stand once.
REPEATABLE = ("dataset", "language", "task", "network-architecture")
ASSET_SUFFIXES = {"Module": ".tar.gz", "Lite": ".tflite", "Tfjs": ".tar.gz"}

LICENCES = (
    "apache-2.0", "bsd-2-clause", "bsd-3-clause", "cc-by-nc-4.0", "cddl-1.0",
    "custom", "epl-2.0", "gpl-2.0", "gpl-3.0", "lgpl-2.0", "lgpl-2.1",
    "lgpl-3.0", "mit", "mpl-2.0")

ALLOWED = {
    "fine-tunable": ("true", "false"),
    # TensorFlow Hub has no pages of models in ONNX, so this value is our own.
    "format": ("hub", "saved_model", "saved_model_2", "onnx"),
    "license": LICENCES,
    "task": (
        "image-aesthetic-quality", "image-augmentation",
        "image-classification", "image-classification-logits",
        "image-classifier", "image-deblurring", "image-dehazing",
        "image-denoising", "image-depth-estimation", "image-deraining",
        "image-enhancement", "image-extrapolation", "image-feature-vector",
        "image-generator", "image-object-detection", "image-others",
        "image-pose-detection", "image-rnn-agent", "image-segmentation",
        "image-style-transfer", "image-super-resolution",
        "image-text-detection", "image-text-recognition"),
    "network-architecture": (
        "bit", "cnn", "efficientnet", "efficientnet-v2",
        "inception-resnet-v2", "inception-v1", "inception-v2",
        "inception-v3", "inception-v4", "mobilenet", "mobilenet-v1",
        "mobilenet-v2", "mobilenet-v3", "multiple", "nasnet-a-large",
        "nasnet-a-mobile", "other", "pnasnet-5-large", "regnetx", "regnety",
        "resnet", "resnet-152", "swin-transformer", "vgg-style", "vit"),
    "dataset": (
        "cifar-10", "cifar-100", "coco-2017", "imagenet", "imagenet-21k",
        "imagenet-ilsvrc-2012-cls", "inaturalist", "inaturalist-inat-2017",
        "multiple", "openimagesv4", "other", "plant-village", "stl10",
        "svhn"),
    "interactive-visualizer": (
        "spice", "tflite_image_classifier", "tflite_image_segmenter",
        "tflite_object_detector", "vision"),
}
