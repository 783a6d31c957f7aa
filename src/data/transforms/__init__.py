# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Transforms of (image, target) on torchvision's public v2 API."""

from .compose import Compose as Compose
from .ops import ConvertBoxes as ConvertBoxes
from .ops import ConvertPILImage as ConvertPILImage
from .ops import EmptyTransform as EmptyTransform
from .ops import PixelConversion as PixelConversion
from .ops import RandomHorizontalFlip as RandomHorizontalFlip
from .ops import RandomIoUCrop as RandomIoUCrop
from .ops import RandomPhotometricDistort as RandomPhotometricDistort
from .ops import RandomZoomOut as RandomZoomOut
from .ops import SanitizeBoundingBoxes as SanitizeBoundingBoxes
from .sizes import PadToSize as PadToSize
from .sizes import RandomChoice as RandomChoice
from .sizes import RandomCrop as RandomCrop
from .sizes import RandomShortestSize as RandomShortestSize
from .sizes import RandomSizeCrop as RandomSizeCrop
from .sizes import Resize as Resize
from .sizes import ResizeShortestEdge as ResizeShortestEdge
from .sizes import ResizeToFit as ResizeToFit
