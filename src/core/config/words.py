# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Words that people bring from other frameworks to the top level of a config, by what to write here instead."""

from __future__ import annotations

WORDS: dict[str, tuple[str, ...]] = {
    "the size of all images is input_size: [height, width]": (
        *("imgsz", "img_size", "imgsize", "image_size", "img_scale", "input_shape", "resolution", "test_size"),
    ),
    "images per step, over all processes, are train_dataloader.total_batch_size": (
        *(
            "batch",
            "batch_size",
            "batchsize",
            "train_batch",
            "samples_per_gpu",
            "per_device_train_batch_size",
            "ims_per_batch",
        ),
    ),
    "the learning rate is optimizer.lr, that of the backbone is in optimizer.params": (
        *("lr", "lr0", "learning_rate", "base_lr", "lr_backbone", "lr_encoder"),
    ),
    "the last learning rate follows from lr_scheduler": ("lrf", "cos_lr", "min_lr", "lr_drop", "lr_policy"),
    "it is an argument of the optimizer: set optimizer.weight_decay or optimizer.betas": ("weight_decay", "momentum"),
    "the warm-up is lr_warmup_scheduler.warmup_duration, in steps": (
        *("warmup", "warmup_epochs", "warmup_iters", "warmup_steps", "warm_up"),
    ),
    "there is no early stopping: epochs says how long, and the best weights are kept in best.pth": (
        *("patience", "early_stopping", "early_stopping_patience", "early_stop"),
    ),
    "write epochs": (
        *("total_epoches", "total_epochs", "max_epoch", "max_epochs", "num_epochs", "num_train_epochs", "n_epochs"),
        *("epoch", "nepochs", "train_epochs"),
    ),
    "write num_classes": ("nc", "num_class", "n_classes", "nb_classes", "number_of_classes"),
    "data are train_dataloader.dataset and val_dataloader.dataset (configs/dataset has examples)": (
        *(
            "data",
            "dataset",
            "data_root",
            "data_dir",
            "data_path",
            "train_path",
            "val_path",
            "dataset_dir",
            "coco_path",
            "train",
            "val",
        ),
        *("train_dataset", "val_dataset", "names", "classes"),
    ),
    "set train_dataloader.num_workers and val_dataloader.num_workers": ("workers", "workers_per_gpu", "n_workers"),
    "the folder of the run is output_dir": (
        *("save_dir", "log_dir", "work_dir", "run_dir", "out_dir", "exp_dir", "project", "logdir"),
    ),
    "write clip_max_norm": (
        "grad_clip",
        "clip_grad",
        "max_grad_norm",
        "gradient_clip_val",
        "clip_grad_norm",
        "max_norm",
    ),
    "write use_amp or precision": ("amp", "fp16", "bf16", "half", "mixed_precision"),
    "write accumulate_steps": (
        *("accumulate", "grad_accum_steps", "accumulate_grad_batches", "gradient_accumulation_steps", "nbs"),
    ),
    "write checkpoint_freq": ("save_period", "save_interval", "snapshot_epoch", "checkpoint_interval", "save_freq"),
    "write print_freq": ("log_interval", "log_iter", "logging_steps", "log_freq", "print_interval"),
    "write eval_every": ("eval_interval", "val_interval", "eval_period", "check_val_every_n_epoch", "eval_freq"),
    "start from a checkpoint with tuning (-t), continue one with resume (-r)": (
        *("weights", "pretrained", "pretrained_weights", "pretrain_weights", "checkpoint", "load_from", "resume_from"),
        *("init_checkpoint", "finetune", "ckpt", "ckpt_path"),
    ),
    "write device; several GPUs are several processes (torchrun --nproc_per_node)": (
        *("gpus", "gpu", "devices", "accelerator", "gpu_ids", "num_gpus", "world_size"),
    ),
    "write seed": ("random_seed", "manual_seed", "random_state"),
    "write DFINEPostProcessor.num_top_queries": ("max_det", "max_dets", "max_detections"),
    "write freeze (backbone: {steps: 2000}) or freeze_at of the backbone": ("freeze_backbone", "freeze_layers"),
    "write DFINECriterion.weight_dict": ("loss_weights", "loss_weight", "loss_coef"),
    "the sizes are files of configs/dfine": ("arch", "architecture", "model_name", "model_size", "variant"),
    "write use_ema": ("ema_on", "with_ema"),
    "augmentation is train_dataloader.dataset.transforms": (
        *(
            "augment",
            "augmentation",
            "augmentations",
            "hsv_h",
            "hsv_s",
            "hsv_v",
            "fliplr",
            "flipud",
            "degrees",
            "scale",
        ),
        *("mosaic", "mixup", "close_mosaic", "copy_paste"),
    ),
}
"""Our way to say what a word of another framework says at the top level."""
