"""Where an evaluation runs: tf.distribute's strategies, by name."""

import json
import os

import tensorflow as tf

from hub_export import errors

NAMES = ("default", "mirrored", "multi_worker", "tpu")


def make(name: str, tpu: str | None = None) -> tf.distribute.Strategy | None:
  """Returns a strategy; None for one device.

  Args:
    name: One of NAMES. "mirrored" takes all GPUs of this machine, or all
      logical CPU devices; "multi_worker" the machines in TF_CONFIG, of which
      this process is one.
    tpu: Name or address of the TPU, for "tpu" alone.

  Raises:
    UsageError: if TF_CONFIG does not say what the workers are.
    UnavailableError: if there is no such TPU.
  """
  if name == "default":
    return None
  if name == "mirrored":
    kind = "GPU" if tf.config.list_logical_devices("GPU") else "CPU"
    return tf.distribute.MirroredStrategy(
        [d.name for d in tf.config.list_logical_devices(kind)])
  if name == "multi_worker":
    _check_cluster(os.environ.get("TF_CONFIG"))
    return tf.distribute.MultiWorkerMirroredStrategy()
  try:
    resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu or "")
    tf.config.experimental_connect_to_cluster(resolver)
    tf.tpu.experimental.initialize_tpu_system(resolver)
  except (ValueError, OSError, tf.errors.OpError) as e:
    raise errors.UnavailableError(
        f"there is no TPU {tpu or 'on this machine'} ({_first_line(e)}). Name "
        "one with --tpu, or evaluate with --strategy=default.") from e
  return tf.distribute.TPUStrategy(resolver)


def place(strategy: tf.distribute.Strategy | None) -> tuple[int, int]:
  """Returns which worker this process is, from 0 up, of how many."""
  resolver = strategy.cluster_resolver if strategy else None
  workers = (resolver.cluster_spec().as_dict().get("worker", ())
             if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
             else ())
  return (resolver.task_id, len(workers)) if len(workers) > 1 else (0, 1)


def wait_for_all(strategy: tf.distribute.Strategy) -> None:
  """Returns when all workers have come this far."""
  # A sum needs a part from each.
  total = strategy.run(lambda: tf.distribute.get_replica_context().all_reduce(
      tf.distribute.ReduceOp.SUM, tf.constant(1.0)))
  _ = [v.numpy() for v in strategy.experimental_local_results(total)]


def _check_cluster(config: str | None) -> None:
  """Raises UsageError unless TF_CONFIG names workers and this one's place."""
  try:
    parsed = json.loads(config or "")
    workers, task = parsed["cluster"]["worker"], parsed["task"]
    if set(parsed["cluster"]) != {"worker"} or task["type"] != "worker":
      raise ValueError("it has others than workers")
    if not 0 <= int(task["index"]) < len(workers):
      raise ValueError(f"index {task['index']} of {len(workers)} workers")
  except (ValueError, KeyError, TypeError) as e:
    raise errors.UsageError(
        f"--strategy=multi_worker needs the environment variable TF_CONFIG, "
        f"which is {'wrong' if config else 'not set'} ({type(e).__name__}: "
        f"{e}); expected "
        '{"cluster": {"worker": ["host1:2222", "host2:2222"]}, "task": '
        '{"type": "worker", "index": 0}} with another index on each worker'
        ) from e


def _first_line(error: Exception) -> str:
  return (str(error).splitlines() or [type(error).__name__])[0]
