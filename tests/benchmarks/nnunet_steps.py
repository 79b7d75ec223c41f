"""Times training steps of nnU-Net's own trainer: `python nnunet_steps.py DATA WORK STEPS`, in nnU-Net's environment.

DATA is the hippocampus data set of the Decathlon, WORK a folder that keeps nnU-Net's preprocessed cases. The trainer,
its plan, its data loader and its augmentation are as shipped. Prints one line of JSON.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from pathlib import Path

DATASET = "Dataset004_Hippocampus"


def main() -> None:
    data, work, steps = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    for name in ("raw", "preprocessed", "results"):
        os.environ[f"nnUNet_{name}"] = str(work / name)
    os.environ.setdefault("nnUNet_n_proc_DA", "1")
    os.environ.setdefault("nnUNet_def_n_proc", "2")
    plans = work / "preprocessed" / DATASET / "nnUNetPlans.json"
    if not plans.is_file():
        prepare(data, work)
    print(json.dumps(timed(steps)), flush=True)


def prepare(data: Path, work: Path) -> None:
    """The data set in nnU-Net's layout, planned and preprocessed by nnU-Net."""
    described = json.loads((data / "dataset.json").read_text())
    target = work / "raw" / DATASET
    for folder in ("imagesTr", "labelsTr"):
        (target / folder).mkdir(parents=True, exist_ok=True)
    for entry in described["training"]:
        image, label = data / entry["image"], data / entry["label"]
        case = image.name.removesuffix(".nii.gz")
        shutil.copyfile(image, target / "imagesTr" / f"{case}_0000.nii.gz")
        shutil.copyfile(label, target / "labelsTr" / f"{case}.nii.gz")
    labels = {name: int(value) for value, name in described["labels"].items()}
    (target / "dataset.json").write_text(
        json.dumps(
            {
                "channel_names": described["modality"],
                "labels": labels,
                "numTraining": len(described["training"]),
                "file_ending": ".nii.gz",
            }
        )
    )
    from nnunetv2.experiment_planning.plan_and_preprocess_api import (
        extract_fingerprints,
        plan_experiments,
        preprocess,
    )

    extract_fingerprints([4], num_processes=2)
    plan_experiments([4])
    preprocess([4], configurations=["3d_fullres"], num_processes=[2])


def timed(steps: int) -> dict[str, object]:
    """Seconds of each step, and of the waiting for its batch."""
    import torch
    from nnunetv2.run.run_training import get_trainer_from_args

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        torch.set_num_threads(os.cpu_count() or 1)  # as nnUNetv2_train -device cpu
    trainer = get_trainer_from_args("4", "3d_fullres", 0, device=device)
    trainer.initialize()
    trainer.on_train_start()
    trainer.on_epoch_start()
    trainer.on_train_epoch_start()
    waited, taken = [], []
    for _ in range(steps):
        start = time.perf_counter()
        batch = next(trainer.dataloader_train)
        loaded = time.perf_counter()
        trainer.train_step(batch)  # ends with the loss on the CPU
        waited.append(loaded - start)
        taken.append(time.perf_counter() - start)
    plan = trainer.configuration_manager
    result = {
        "patch": list(plan.patch_size),
        "batch": trainer.batch_size,
        "network": plan.network_arch_class_name,
        "channels": list(plan.network_arch_init_kwargs["features_per_stage"]),
        "parameters": sum(p.numel() for p in trainer.network.parameters()),
        "seconds": taken,
        "waited": waited,
        "device": str(device),
    }
    _stop(trainer)
    return result


def _stop(trainer: object) -> None:
    """End the processes of the data loaders, as the trainer's end does, without its last checkpoint."""
    for name in ("dataloader_train", "dataloader_val"):
        loader = getattr(trainer, name)
        finish = getattr(loader, "_finish", None)
        if finish is not None:
            finish()


if __name__ == "__main__":
    main()
