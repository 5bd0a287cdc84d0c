"""How each runtime opens a model, calls it and takes a step of training.

Each module is imported in a process of its own, perhaps by another Python, so
none imports anything of hub_export. All have

  open_model(task) -> Model

and a Model has

  call(images) -> a function without arguments, which returns when its outputs
    are there; images are float32 [batch, height, width, 3], as the network is
    fed, and are brought into the runtime's own layout beforehand
  array(outputs) -> float32 [batch, classes] of what such a function returned
  versions -> {package: version}

and where it can be trained

  step(images, labels) -> a function without arguments: one step of SGD, which
    returns the loss when the variables are updated.
"""
