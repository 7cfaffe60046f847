"""Curves of training for TensorBoard, as they come: `main_imp.py --tensorboard`."""

from collections.abc import Mapping
from pathlib import Path

from utils.errors import UserError


class Events:
    """Event files, a folder and so a run of TensorBoard's for each level: they lie one over the other, by epoch.

    UserError where TensorBoard is not installed. Nothing is written before the first epoch is.
    """

    def __init__(self):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise UserError("--tensorboard: it is not installed: pip install tensorboard") from error
        self._new_writer = SummaryWriter
        self._writer, self._folder = None, None

    def write(self, folder: Path, epoch: int, values: Mapping[str, float]) -> None:
        """Add what belongs to an epoch (from 1), by its tag, to the level whose events are in `folder`.

        What an interrupted run has written of this epoch and later ones is hidden: it trains them again.
        """
        if folder != self._folder:
            if self._writer is not None:
                self._writer.close()
            self._writer = self._new_writer(str(folder), purge_step=epoch)
            self._folder = folder
        for tag, value in values.items():
            self._writer.add_scalar(tag, value, epoch)
        self._writer.flush()
