import models
from reproduce import ways
from tf1 import keras, tf


def test_the_stock_networks_are_the_articles(graph):
    stock = ways.stock_networks(keras, tf)
    for ours, theirs in zip((models.article_generator(), models.article_discriminator()), stock, strict=True):
        assert [w.shape for w in theirs.get_weights()] == [w.shape for w in ours.get_weights()]
        assert len(theirs.layers) == len(ours.layers)
        for our, their in zip(ours.layers, theirs.layers, strict=True):
            assert "layers" not in type(their).__module__.split(".")[:1]
            theirs_config, ours_config = their.get_config(), our.get_config()
            for key in ("filters", "strides", "padding", "momentum", "epsilon", "alpha", "activation"):
                assert theirs_config.get(key) == ours_config.get(key)
