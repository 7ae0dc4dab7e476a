"""The parts of a VQ-VAE against formulas and numpy."""

import jax
import jax.numpy as jnp
import numpy as np

from mhmoe_jax.codes import vqvae


def unit(key, shape):
  return vqvae.normalize(jax.random.normal(key, shape))


def test_two_codes_by_hand():
  codes_WR = jnp.array([[1.0, 0.0], [0.0, 1.0]])
  x_BPR = vqvae.normalize(jnp.array([[[3.0, 1.0], [0.1, 0.2], [-1.0, -5.0]]]))
  q = vqvae.quantize(x_BPR, codes_WR)
  # Of the last, both cosines are negative; the first code's is less so.
  np.testing.assert_array_equal(q.ids_BP, [[0, 1, 0]])
  np.testing.assert_allclose(q.code_BPR, codes_WR[jnp.array([[0, 1, 0]])], atol=1e-7)


def test_nearest_is_by_cosine(key):
  x_BPR, codes_WR = unit(key, (2, 9, 5)), unit(jax.random.key(1), (7, 5))
  ids_BP = vqvae.quantize(x_BPR, codes_WR).ids_BP
  cosines_BPW = np.einsum("bpr,wr->bpw", x_BPR, codes_WR)
  np.testing.assert_array_equal(ids_BP, cosines_BPW.argmax(axis=-1))


def test_the_gradient_goes_straight_through(key):
  """d loss / d x is the decoder's at the code, plus that of the commitment."""
  x_BPR, codes_WR = unit(key, (2, 4, 3)), unit(jax.random.key(1), (5, 3))
  weight_BPR = jax.random.normal(jax.random.key(2), x_BPR.shape)

  def loss(x_BPR, codes_WR):
    q = vqvae.quantize(x_BPR, codes_WR)
    # A decoder whose gradient depends on where it is taken.
    return (weight_BPR * q.code_BPR**2).sum() + vqvae.commitment(q)

  to_x_BPR, to_codes_WR = jax.grad(loss, argnums=(0, 1))(x_BPR, codes_WR)
  code_BPR = codes_WR[vqvae.quantize(x_BPR, codes_WR).ids_BP]
  drawn = 2 * weight_BPR * code_BPR
  away = 2 * (x_BPR - code_BPR) / x_BPR.size
  np.testing.assert_allclose(to_x_BPR, drawn + away, rtol=1e-5, atol=1e-6)
  np.testing.assert_array_equal(to_codes_WR, 0)  # They move by themselves.


def test_codes_move_as_in_numpy(key):
  codes_WR, x_BPR = unit(key, (6, 3)), unit(jax.random.key(1), (2, 5, 3))
  ids_BP = jnp.array([[0, 0, 1, 3, 3], [3, 5, 5, 5, 0]])
  moved_WR = vqvae.move_codes(codes_WR, x_BPR, ids_BP)
  for w in range(6):
    mine = np.asarray(x_BPR)[np.asarray(ids_BP) == w]
    expected = np.asarray(codes_WR[w])
    if len(mine):
      mean = mine.mean(axis=0) / np.linalg.norm(mine.mean(axis=0))
      expected = 0.99 * expected + 0.01 * mean
      expected = expected / np.linalg.norm(expected)
    np.testing.assert_allclose(moved_WR[w], expected, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(moved_WR[2], codes_WR[2], rtol=1e-6)  # None chose it.


def test_idle_codes_start_anew_at_vectors(key):
  codes_WR, x_BPR = unit(key, (4, 3)), unit(jax.random.key(1), (4, 16, 3))
  idle_W = jnp.array([0, vqvae.IDLE, vqvae.IDLE - 1, vqvae.IDLE + 9])
  ids_BP = vqvae.quantize(x_BPR, codes_WR).ids_BP
  new_WR, new_idle_W = vqvae.restart_codes(codes_WR, idle_W, x_BPR, ids_BP, key)
  np.testing.assert_array_equal(new_idle_W, [0, 0, vqvae.IDLE - 1, 0])
  np.testing.assert_array_equal(new_WR[jnp.array([0, 2])], codes_WR[jnp.array([0, 2])])
  x_TR = np.asarray(x_BPR).reshape(-1, 3)
  places = [np.flatnonzero((x_TR == np.asarray(new_WR[w])).all(axis=1)) for w in (1, 3)]
  assert [len(place) for place in places] == [1, 1]
  assert places[0] != places[1]


def test_codes_start_anew_where_they_are_missed(key):
  """Vectors that have their code already are not chosen."""
  codes_WR = unit(key, (2, 3))
  lost_R = unit(jax.random.key(1), (3,))
  x_BPR = jnp.broadcast_to(codes_WR[0], (1, 64, 3)).at[0, 5].set(lost_R)
  idle_W = jnp.array([0, vqvae.IDLE])
  ids_BP = jnp.zeros((1, 64), jnp.int32)
  new_WR, _ = vqvae.restart_codes(codes_WR, idle_W, x_BPR, ids_BP, key)
  np.testing.assert_array_equal(new_WR[1], lost_R)


def test_where_a_code_starts_anew_is_drawn(key):
  codes_WR, x_BPR = unit(key, (1, 3)), unit(jax.random.key(1), (1, 64, 3))
  ids_BP, idle_W = jnp.zeros((1, 64), jnp.int32), jnp.array([vqvae.IDLE])
  starts = {
    np.asarray(
      vqvae.restart_codes(codes_WR, idle_W, x_BPR, ids_BP, jax.random.key(seed))[0]
    ).tobytes()
    for seed in range(8)
  }
  assert len(starts) > 4


def test_a_vector_of_zeros_has_no_length():
  value, gradient = jax.value_and_grad(lambda x: vqvae.normalize(x).sum())(jnp.zeros(3))
  assert value == 0
  assert np.isfinite(gradient).all()


def test_a_network_by_numpy(key):
  """Norm, 3 x 3 convolution, GELU's tanh form and a linear map, beside a residual."""
  network = vqvae.Network(2)
  x_BPR = np.asarray(jax.random.normal(key, (1, 9, 5)), np.float64)
  params = network.init(key, jnp.zeros((1, 1, 5)))["params"]
  block = params["block_0"]
  np.testing.assert_allclose(np.std(block["w_LDF"]), (9 * 64) ** -0.5, rtol=0.05)
  np.testing.assert_allclose(np.std(block["w_FD"]), 64**-0.5, rtol=0.05)
  np.testing.assert_allclose(np.std(params["w_RD"]), 5**-0.5, rtol=0.15)

  def norm(x):
    x = x - x.mean(axis=-1, keepdims=True)
    return x / np.sqrt(np.square(x).mean(axis=-1, keepdims=True) + 1e-6)

  h_PD = x_BPR[0] @ np.asarray(params["w_RD"], np.float64)
  for name in ("block_0", "block_1"):
    w = {k: np.asarray(v, np.float64) for k, v in params[name].items() if k[0] == "w"}
    ground = np.pad(norm(h_PD).reshape(3, 3, 64), ((1, 1), (1, 1), (0, 0)))
    seen = np.stack([ground[y : y + 3, x : x + 3] for y in range(3) for x in range(3)])
    a_PF = np.einsum("lyxd,ldf->yxf", seen, w["w_LDF"]).reshape(9, 64)
    gelu = 0.5 * a_PF * (1 + np.tanh((2 / np.pi) ** 0.5 * (a_PF + 0.044715 * a_PF**3)))
    h_PD = h_PD + gelu @ w["w_FD"]
  expected = norm(h_PD) @ np.asarray(params["w_DR"], np.float64)
  found = jax.jit(network.apply)({"params": params}, jnp.asarray(x_BPR, jnp.float32))
  np.testing.assert_allclose(found[0], expected, atol=1e-5)


def make_arrays(key):
  """An encoder and a decoder of patches of 12 numbers, which are white already."""
  white = {"mean_U": jnp.zeros(12), "whiten_UR": jnp.eye(12), "color_RU": jnp.eye(12)}
  return vqvae.init_networks(key, 12) | white


def test_a_patch_sees_its_neighbours_and_no_further(key):
  """Each of two blocks sees one patch further in every direction."""
  arrays = make_arrays(key)
  patches_BPU = jax.random.normal(key, (1, 49, 12))
  x_BPR = vqvae.look(arrays, patches_BPU)
  np.testing.assert_allclose(jnp.linalg.norm(x_BPR, axis=-1), 1, rtol=1e-5)
  other_BPR = vqvae.look(arrays, patches_BPU.at[0, 0].add(1.0))
  changed_YX = (x_BPR != other_BPR).any(axis=-1).reshape(7, 7)
  expected_YX = np.zeros((7, 7), bool)
  expected_YX[:3, :3] = True
  np.testing.assert_array_equal(changed_YX, expected_YX)


def test_the_loss_is_of_pixels_and_commitment(key):
  arrays = make_arrays(key)
  networks = {name: arrays.pop(name) for name in ("encoder", "decoder")}
  codes_WR = unit(key, (5, vqvae.CODE_DIM))
  patches_BPU = jax.random.normal(key, (1, 4, 12))
  found, (q, error) = vqvae.loss(networks, arrays, codes_WR, patches_BPU)
  everything = networks | arrays | {"codes_WR": codes_WR}
  ids_BP = vqvae.encode(everything, patches_BPU)
  np.testing.assert_array_equal(q.ids_BP, ids_BP)
  drawn_BPU = vqvae.decode(everything, ids_BP)
  expected = jnp.square(drawn_BPU - patches_BPU).mean()
  np.testing.assert_allclose(error, expected, rtol=1e-5)
  away = jnp.square(codes_WR[ids_BP] - q.x_BPR).mean()
  np.testing.assert_allclose(found, expected + away, rtol=1e-5)
