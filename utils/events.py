"""Curves of training for TensorBoard, as they come: `main_imp.py --tensorboard`."""

from collections.abc import Mapping
from pathlib import Path

from utils.errors import UserError


class Events:
    """Event files in `folder`: a run of TensorBoard's for each level, so that they lie one over the other, by epoch.

    UserError where TensorBoard is not installed. Nothing is written before the first epoch is.
    """

    def __init__(self, folder: Path):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise UserError("--tensorboard: it is not installed: pip install tensorboard") from error
        self._new_writer, self._folder = SummaryWriter, folder
        self._writer, self._level = None, -1

    def write(self, level: int, epoch: int, values: Mapping[str, float]) -> None:
        """Add what belongs to an epoch (from 1), by its tag.

        What an interrupted run has written of this epoch and later ones is hidden: it trains them again.
        """
        if level != self._level:
            if self._writer is not None:
                self._writer.close()
            self._writer = self._new_writer(str(self._folder / f"level_{level}"), purge_step=epoch)
            self._level = level
        for tag, value in values.items():
            self._writer.add_scalar(tag, value, epoch)
        self._writer.flush()
