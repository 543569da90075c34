"""What TensorFlow 1's graph knows of Keras' models: regularization, and state that a forward pass would update."""

from command import InputError
from tf1 import keras, tf


def last_operation(tensor: tf.Tensor) -> tf.Operation:
    """What computes a tensor, without what only changes its shape: behind D's score, its activation."""
    operation = tensor.op
    while operation.type in ("Reshape", "Squeeze", "Identity"):
        operation = operation.inputs[0].op
    return operation


def regularized(loss: tf.Tensor, model: keras.Model, *inputs) -> tf.Tensor:
    """The loss with the model's regularization added, as Keras' `fit` adds it. inputs: those that the model was called
    with; activities are regularized for each of them, weights once."""
    terms = model.get_losses_for(None)
    for each in inputs:
        terms += model.get_losses_for(each)
    return tf.add_n([loss, *terms]) if terms else loss


def updates(model: keras.Model, *inputs, since: set[tf.Operation]) -> list[tf.Operation]:
    """The updates that the model's layers have registered for these calls, such as those of moving averages.

    since: the graph's operations before the calls, because those of an update that depends on no input are not told
    apart by input, and the model's own construction has made one too.
    """
    found = [update for each in (None, *inputs) for update in model.get_updates_for(each)]
    return [update for update in found if getattr(update, "op", update) not in since]


def check_updates(registered: list[tf.Operation], since: set[tf.Operation]) -> None:
    """Raise InputError where a layer has assigned to a variable in its forward pass without `add_update`.

    In graph mode such an assignment would never run. since: the graph's operations before the models were called.
    """
    known, waiting = set(), [getattr(each, "op", each) for each in tf.nest.flatten(registered)]
    while waiting:  # an update may be a group of others
        operation = waiting.pop()
        if operation not in known and operation not in since:
            known.add(operation)
            waiting += [*(tensor.op for tensor in operation.inputs), *operation.control_inputs]
    for operation in tf.get_default_graph().get_operations():
        if operation.type.startswith("Assign") and operation not in since and operation not in known:
            raise InputError(
                f"{operation.name.rsplit('/', 1)[0]} updates its state in the forward pass, which graph mode would not "
                "run: let the layer register it with `add_update`"
            )


def in_one_product(gradient: tf.Tensor, weights: tf.Variable) -> tf.Tensor:
    """The gradient of a dense layer's weights that were used for several batches, from one product over all of them.

    TensorFlow makes one product per batch, of the size of the weights each, and adds them. Where the weights have more
    numbers than the batches, which is when joining the batches pays, one product saves most of that memory traffic.
    """
    products = [last_operation(tensor) for tensor in gradient.op.inputs] if gradient.op.type == "AddN" else []
    if not products or any(
        each.type != "MatMul" or not each.get_attr("transpose_a") or each.get_attr("transpose_b") for each in products
    ):
        return gradient
    inputs, gradients = zip(*(each.inputs for each in products), strict=True)
    sizes = [tensor.shape.num_elements() for tensor in (*inputs, *gradients)]
    if None in sizes or sum(sizes) >= weights.shape.num_elements():
        return gradient
    return tf.matmul(tf.concat(inputs, 0), tf.concat(gradients, 0), transpose_a=True)
