// Standard normals as torch.randn draws them on a CPU, number for number: MT19937, Box and Muller.
// The layout of the state is that of torch.get_rng_state().
struct Generator {
  uint64_t initial_seed;
  int32_t left, seeded;
  uint64_t next;
  uint64_t state[624];
  double normal_x, normal_y, normal_rho;
  int32_t normal_is_valid;
  float next_float;
  bool float_is_valid;
};

static void refill(Generator* g) {
  auto mixed = [](uint64_t u, uint64_t v) { return (u & 0x80000000u) | (v & 0x7fffffffu); };
  auto twisted = [&](uint64_t u, uint64_t v) { return (mixed(u, v) >> 1) ^ (v & 1u ? 0x9908b0dfu : 0u); };
  uint64_t* p = g->state;
  for (int j = 624 - 397 + 1; --j; p++) *p = p[397] ^ twisted(p[0], p[1]);
  for (int j = 397; --j; p++) *p = p[397 - 624] ^ twisted(p[0], p[1]);
  *p = p[397 - 624] ^ twisted(p[0], g->state[0]);
  g->left = 624;
  g->next = 0;
}

static inline uint32_t bits(Generator* g) {
  if (--g->left == 0) refill(g);
  uint32_t y = static_cast<uint32_t>(g->state[g->next++]);
  y ^= y >> 11;
  y ^= (y << 7) & 0x9d2c5680u;
  y ^= (y << 15) & 0xefc60000u;
  y ^= y >> 18;
  return y;
}

template <typename T> static inline T uniform(Generator* g);
template <> inline double uniform<double>(Generator* g) {
  const uint64_t high = bits(g), low = bits(g);
  return static_cast<double>(((high << 32) | low) & ((1ull << 53) - 1)) * 0x1p-53;
}
template <> inline float uniform<float>(Generator* g) {
  return static_cast<float>(bits(g) & ((1u << 24) - 1)) * 0x1p-24f;
}

// Fewer than 16: one by one, of each pair the second is kept for the next call.
static inline double one_normal(Generator* g) {
  if (g->normal_is_valid) {
    const double kept = g->normal_y;
    g->normal_is_valid = 0;
    g->normal_y = 0;
    return kept;
  }
  const double u1 = uniform<double>(g), u2 = uniform<double>(g);
  const double radius = std::sqrt(-2.0 * std::log1p(-u2)), angle = 2.0 * 3.14159265358979323846 * u1;
  g->normal_y = radius * std::sin(angle);
  g->normal_is_valid = 1;
  return radius * std::cos(angle);
}

template <typename T> static inline void sixteen(T* at) {
  for (int j = 0; j < 8; j++) {
    const T u1 = 1 - at[j], u2 = at[j + 8];
    const T radius = std::sqrt(-2 * std::log(u1)), angle = T(2.0 * 3.14159265358979323846) * u2;
    at[j] = radius * std::cos(angle);
    at[j + 8] = radius * std::sin(angle);
  }
}

template <typename T> static inline void fill(Generator* g, T* at, int64_t n) {
  if (n < 16) {
    for (int64_t i = 0; i < n; i++) at[i] = static_cast<T>(one_normal(g));
    return;
  }
  for (int64_t i = 0; i < n; i++) at[i] = uniform<T>(g);
  for (int64_t i = 0; i < n - 15; i += 16) sixteen(at + i);
  if (n % 16) {
    for (int64_t i = n - 16; i < n; i++) at[i] = uniform<T>(g);
    sixteen(at + n - 16);
  }
}
