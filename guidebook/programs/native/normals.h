// Standard normals as torch.randn draws them on a CPU, number for number: MT19937, Box and Muller.
// The layout of the state is that of torch.get_rng_state().
#include <bit>
#include <utility>
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
    at[j] = radius * std::cos(angle) + T(0);  // torch adds the mean: no zero is negative
    at[j + 8] = radius * std::sin(angle) + T(0);
  }
}

#if defined(__AVX2__) && defined(__FMA__)
// In single precision torch has Cephes' approximations there, by J. Pommier and G. Garberoglio
// (ATen/native/cpu/avx_mathfun.h), in which its compiler fuses products and sums as they are fused here.
static inline float natural_log(float x) {
  x = std::max(x, 0x1p-126f);
  const int32_t pattern = std::bit_cast<int32_t>(x);
  float e = static_cast<float>((pattern >> 23) - 0x7f) + 1.0f;
  x = std::bit_cast<float>((pattern & ~0x7f800000) | 0x3f000000);
  const bool low = x < 0.707106781186547524f;
  e -= low ? 1.0f : 0.0f;
  x = (x - 1.0f) + (low ? x : 0.0f);
  const float z = x * x;
  float y = 7.0376836292e-2f;
  for (float p : {-1.1514610310e-1f, 1.1676998740e-1f, -1.2420140846e-1f, 1.4249322787e-1f, -1.6668057665e-1f,
                  2.0000714765e-1f, -2.4999993993e-1f, 3.3333331174e-1f})
    y = std::fma(y, x, p);
  y = std::fma(y * x, z, e * -2.12194440e-4f);
  y = std::fma(z, -0.5f, y);
  return std::fma(e, 0.693359375f, x + y);
}

static inline void sine_and_cosine(float x, float* sine, float* cosine) {  // 0 <= x <= 2 pi
  const int32_t octant = (static_cast<int32_t>(x * 1.27323954473516f) + 1) & ~1;
  const float y = static_cast<float>(octant);
  for (float p : {-0.78515625f, -2.4187564849853515625e-4f, -3.77489497744594108e-8f}) x = std::fma(y, p, x);
  const float z = x * x;
  float c = std::fma(std::fma(2.443315711809948e-5f, z, -1.388731625493765e-3f), z, 4.166664568298827e-2f) * z;
  c = std::fma(c, z, -(z * 0.5f)) + 1.0f;
  float s = std::fma(std::fma(-1.9515295891e-4f, z, 8.3321608736e-3f), z, -1.6666654611e-1f) * z;
  s = std::fma(s, x, x);
  if (octant & 2) std::swap(s, c);
  *sine = octant & 4 ? -s : s;
  *cosine = (octant - 2) & 4 ? c : -c;
}

template <> inline void sixteen<float>(float* at) {
  for (int j = 0; j < 8; j++) {
    const float radius = std::sqrt(-2.0f * natural_log(1.0f - at[j]));
    float s, c;
    sine_and_cosine(static_cast<float>(2.0 * 3.14159265358979323846) * at[j + 8], &s, &c);
    at[j] = radius * c + 0.0f;
    at[j + 8] = radius * s + 0.0f;
  }
}
#endif

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
