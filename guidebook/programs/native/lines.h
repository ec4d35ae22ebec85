// Along one dimension of a tensor: sums up to each place, order, search. Every function is given the sizes of
// that dimension, n, and of three others, and of every tensor the strides of these four, in elements.
#define OTHERS for (int64_t i = 0; i < n1; i++) for (int64_t j = 0; j < n2; j++) for (int64_t k = 0; k < n3; k++)

// Sums (0), products (1) and log sums of exp (2), taken in double precision.
template <typename T, typename U>
static void running_of(T* x, const U* a, int64_t what, int64_t n, int64_t n1, int64_t n2, int64_t n3,
                       int64_t x0, int64_t x1, int64_t x2, int64_t x3, int64_t a0, int64_t a1, int64_t a2,
                       int64_t a3) {
  typedef std::conditional_t<std::is_floating_point_v<T>, double, T> Sum;
  OTHERS {
    T* to = x + i * x1 + j * x2 + k * x3;
    const U* from = a + i * a1 + j * a2 + k * a3;
    if (what == 2) {
      double sum = -std::numeric_limits<double>::infinity();
      for (int64_t l = 0; l < n; l++, to += x0, from += a0) {
        const double given = *from, low = given < sum ? given : sum, high = given < sum ? sum : given;
        sum = std::isnan(given) || std::isnan(sum) ? given + sum
              : low == high && std::isinf(low) ? low : high + std::log1p(std::exp(low - high));
        *to = sum;
      }
      continue;
    }
    Sum value = what;
    for (int64_t l = 0; l < n; l++, to += x0, from += a0)
      *to = value = what ? value * static_cast<T>(*from) : value + static_cast<T>(*from);
  }
}

template <typename T, typename... Sizes>
static void running(T* x, const void* a, int64_t what, int64_t kind, Sizes... sizes) {
  switch (kind) {
    case 0: return running_of(x, static_cast<const double*>(a), what, sizes...);
    case 1: return running_of(x, static_cast<const float*>(a), what, sizes...);
    case 2: return running_of(x, static_cast<const int64_t*>(a), what, sizes...);
    case 3: return running_of(x, static_cast<const int32_t*>(a), what, sizes...);
    default: return running_of(x, static_cast<const bool*>(a), what, sizes...);
  }
}

// x: a in order, what is not a number after all numbers, or before them where it descends; where it was.
template <typename T>
static void sorted(T* x, void* places, const T* a, int64_t descending, int64_t n, int64_t n1, int64_t n2,
                   int64_t n3, int64_t x0, int64_t x1, int64_t x2, int64_t x3, int64_t p0, int64_t p1,
                   int64_t p2, int64_t p3, int64_t a0, int64_t a1, int64_t a2, int64_t a3) {
  static thread_local std::vector<std::pair<T, int64_t>> row;
  const auto below = [](T u, T v) { return u < v || (v != v && u == u); };
  row.resize(n);
  OTHERS {
    const T* from = a + i * a1 + j * a2 + k * a3;
    for (int64_t l = 0; l < n; l++) row[l] = {from[l * a0], l};
    std::stable_sort(row.begin(), row.end(), [&](const auto& u, const auto& v) {
      return descending ? below(v.first, u.first) : below(u.first, v.first);
    });
    for (int64_t l = 0; l < n; l++) {
      x[l * x0 + i * x1 + j * x2 + k * x3] = row[l].first;
      static_cast<int64_t*>(places)[l * p0 + i * p1 + j * p2 + k * p3] = row[l].second;
    }
  }
}

// How many of a row of s, in order, are below each value, or not above it where `right`: int64, or int32.
template <typename T>
static void searched(void* x, const T* values, const T* s, int64_t right, int64_t small, int64_t length,
                     int64_t step, int64_t n, int64_t n1, int64_t n2, int64_t n3, int64_t x0, int64_t x1,
                     int64_t x2, int64_t x3, int64_t v0, int64_t v1, int64_t v2, int64_t v3, int64_t,
                     int64_t s1, int64_t s2, int64_t s3) {
  OTHERS {
    const T* row = s + i * s1 + j * s2 + k * s3;
    for (int64_t l = 0; l < n; l++) {
      const T value = values[l * v0 + i * v1 + j * v2 + k * v3];
      int64_t low = 0, high = length;
      while (low < high) {
        const int64_t middle = low + (high - low) / 2;
        const T found = row[middle * step];
        if (right ? !(found > value) : !(found >= value)) low = middle + 1; else high = middle;
      }
      const int64_t at = l * x0 + i * x1 + j * x2 + k * x3;
      if (small) static_cast<int32_t*>(x)[at] = low; else static_cast<int64_t*>(x)[at] = low;
    }
  }
}
#undef OTHERS
