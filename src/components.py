# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Imports every module that registers a class, so that configs can name it."""

from . import data as data
from .data import collate as collate
from .data import evaluate as evaluate
from .data import loader as loader
from .data import transforms as transforms
from .data.dataset import coco as coco
from .data.dataset import crowdhuman as crowdhuman
from .data.dataset import image_folder as image_folder
from .data.dataset import kitti as kitti
from .data.dataset import voc as voc
from .data.dataset import yolo as yolo
from .distill import attention as attention
from .distill import layers as layers
from .distill.methods import box as box
from .distill.methods import clock as clock
from .distill.methods import fgd as fgd
from .distill.methods import fitnet as fitnet
from .distill.methods import go_lsd as go_lsd
from .distill.methods import kd_detr as kd_detr
from .distill.methods import lcmd as lcmd
from .distill.methods import ld as ld
from .distill.methods import logit as logit
from .distill.methods import mgd as mgd
from .losses import criterion as criterion
from .losses import detr as detr
from .losses import matcher as matcher
from .losses import rtdetr as rtdetr
from .optim import ema as ema
from .optim import param_groups as param_groups
from .optim import precision as precision
from .optim import schedule as schedule
from .solver import trackers as trackers
from .solver import writers as writers
from .zoo import parts as parts
