"""What TensorFlow 1's graph knows of Keras' models: regularization, and state that a forward pass would update."""

from collections.abc import Iterable

from command import InputError
from tf1 import keras, tf


def regularized(loss: tf.Tensor, model: keras.Model, *inputs) -> tf.Tensor:
    """The loss with the model's regularization added, as Keras' `fit` adds it. inputs: those that the model was called
    with; activities are regularized for each of them, weights once."""
    terms = model.get_losses_for(None)
    for each in inputs:
        terms += model.get_losses_for(each)
    return tf.add_n([loss, *terms]) if terms else loss


def updates(model: keras.Model, *inputs) -> list[tf.Operation]:
    """The updates that the model's layers have registered, such as moving averages, for these calls."""
    return [update for each in (None, *inputs) for update in model.get_updates_for(each)]


def check_updates(before: Iterable[tf.Operation], registered: list[tf.Operation]) -> None:
    """Raise InputError where a layer has assigned to a variable in its forward pass without `add_update`.

    In graph mode such an assignment would never run. before: the graph's operations before the models were called.
    """
    before, known, waiting = set(before), set(), list(tf.nest.flatten(registered))
    waiting = [getattr(each, "op", each) for each in waiting]
    while waiting:  # an update may be a group of others
        operation = waiting.pop()
        if operation not in known and operation not in before:
            known.add(operation)
            waiting += [*(tensor.op for tensor in operation.inputs), *operation.control_inputs]
    known |= {variable.initializer for variable in tf.global_variables()}
    for operation in tf.get_default_graph().get_operations():
        if operation.type.startswith("Assign") and operation not in before and operation not in known:
            raise InputError(
                f"{operation.name.rsplit('/', 1)[0]} updates its state in the forward pass, which graph mode would not "
                "run: let the layer register it with `add_update`"
            )
