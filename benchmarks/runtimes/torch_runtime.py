"""timm's RegNets in PyTorch, channels last, as is fastest on CPUs."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import timm
import torch

LEARNING_RATE = 1e-3
_COUNTER = ".num_batches_tracked"


class Model:
  """A timm model."""

  def __init__(self, model: torch.nn.Module, is_bf16: bool):
    self._model = model.to(memory_format=torch.channels_last)
    self._is_bf16 = is_bf16
    self.versions = {"torch": torch.__version__, "timm": timm.__version__}

  def call(self, images: np.ndarray) -> Callable[[], torch.Tensor]:
    fed = self._fed(images)
    self._model.eval()

    def run():
      with torch.inference_mode(), self._autocast():
        return self._model(fed)
    return run

  def array(self, outputs: torch.Tensor) -> np.ndarray:
    return outputs.float().numpy()

  def step(self, images: np.ndarray, labels: np.ndarray
           ) -> Callable[[], float]:
    fed, wanted = self._fed(images), torch.from_numpy(labels.astype(np.int64))
    self._model.train()
    optimizer = torch.optim.SGD(self._model.parameters(), LEARNING_RATE)

    def run():
      with self._autocast():
        loss = torch.nn.functional.cross_entropy(
            self._model(fed).float(), wanted)
      optimizer.zero_grad()
      loss.backward()
      optimizer.step()
      return loss.item()
    return run

  def _autocast(self) -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16, self._is_bf16)

  def _fed(self, images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(images.transpose(0, 3, 1, 2).copy()).to(
        memory_format=torch.channels_last)


def open_model(task: Mapping[str, Any]) -> Model:
  """Returns the model of a task: "timm_name", "num_classes"; "path" is an .npz
  file of its state dict; "precision"; "threads".

  Raises:
    RuntimeError: if the state dict is not the model's.
  """
  torch.set_num_threads(task["threads"])
  model = timm.create_model(task["timm_name"], num_classes=task["num_classes"])
  with np.load(task["path"]) as stored:
    state = {name: torch.from_numpy(stored[name]) for name in stored.files}
  result = model.load_state_dict(state, strict=False)
  lacking = [n for n in result.missing_keys if not n.endswith(_COUNTER)]
  if lacking or result.unexpected_keys:
    raise RuntimeError(f"{task['timm_name']} has other tensors than the "
                       f"weights: {lacking[:3]}, {result.unexpected_keys[:3]}")
  return Model(model, task["precision"] == "bf16")
