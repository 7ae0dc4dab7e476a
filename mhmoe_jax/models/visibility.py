"""Who attends to whom, by one rule for encoders, prefix and causal models.

Every place has a number in an order and a segment. A place sees those of its own
segment whose number is not above its own: equal numbers see each other, as patches of a
picture and an encoder's text do; rising numbers are causal; a prefix of zeros before
rising ones is a prefix model, where a picture sees itself and a caption its left.
"""

import jax


def visible(order_BL: jax.Array, segments_BL: jax.Array) -> jax.Array:
  """The attention mask (B, 1, L, L), True where place i (third) sees place j (last).

  Args:
    order_BL: int32, the number of each place.
    segments_BL: int32, the document of each place; 0 is padding, which nothing sees
      but padding, so that every row of the softmax has something to see.
  """
  earlier_BLL = order_BL[:, None, :] <= order_BL[:, :, None]
  same_BLL = segments_BL[:, None, :] == segments_BL[:, :, None]
  return (earlier_BLL & same_BLL)[:, None]
