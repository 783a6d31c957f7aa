# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Imports what detectors are built from, every backbone and every family, so that configs can name it."""

from ..nn.backbone import hgnetv2 as hgnetv2
from ..nn.backbone import resnet as resnet
from ..nn.backbone import timm as timm
from . import encoders as encoders
from .dab_detr.decoder import DABDETRTransformer as DABDETRTransformer
from .dab_detr.model import DABDETR as DABDETR
from .deformable_detr.decoder import DeformableDETRTransformer as DeformableDETRTransformer
from .deformable_detr.model import DeformableDETR as DeformableDETR
from .dfine import decoder as decoder
from .dfine import encoder as encoder
from .dfine import model as model
from .dfine import postprocess as postprocess
from .dino.decoder import DINOTransformer as DINOTransformer
from .dino.model import DINO as DINO
from .dn_detr.decoder import DNDETRTransformer as DNDETRTransformer
from .dn_detr.model import DNDETR as DNDETR
from .rtdetr.decoder import RTDETRTransformer as RTDETRTransformer
from .rtdetr.model import RTDETR as RTDETR
