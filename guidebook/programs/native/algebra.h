// BLAS as torch has it, where its library exports it: set once, before anything is called.
typedef void (*Gemm)(const char*, const char*, const int*, const int*, const int*, const void*, const void*,
                     const int*, const void*, const int*, const void*, void*, const int*);
static Gemm blas_double = nullptr, blas_float = nullptr;
extern "C" void use_blas(Gemm d, Gemm s) { blas_double = d; blas_float = s; }
static inline Gemm blas(double) { return blas_double; }
static inline Gemm blas(float) { return blas_float; }

// Row i of column j at i * s1 + j * s2: whether BLAS can read it, and how.
static inline bool readable(int64_t rows, int64_t columns, int64_t s1, int64_t s2, char* turned, int* ahead) {
  if (s2 == 1 && s1 >= columns && s1 > 0) { *turned = 'N'; *ahead = s1; return true; }
  if (s1 == 1 && s2 >= rows && s2 > 0) { *turned = 'T'; *ahead = s2; return true; }
  return false;
}

// c (m, n) = a (m, k) b (k, n) + beta d, of a batch; strides in elements, of batch, row and column.
template <typename T>
static void product(T* c, const T* a, const T* b, const T* d, int64_t batch, int64_t m, int64_t n, int64_t k,
                    int64_t c0, int64_t c1, int64_t c2, int64_t a0, int64_t a1, int64_t a2,
                    int64_t b0, int64_t b1, int64_t b2, int64_t d0, int64_t d1, int64_t d2, int64_t beta) {
  char ta, tb;
  int la, lb;
  const bool large = m * n * k > 4000 && c2 == 1 && c1 >= n && blas(T()) && readable(m, k, a1, a2, &ta, &la) &&
                     readable(k, n, b1, b2, &tb, &lb);
  for (int64_t s = 0; s < batch; s++) {
    for (int64_t i = 0; i < m; i++)
      for (int64_t j = 0; j < n; j++)
        c[s * c0 + i * c1 + j * c2] = beta ? d[s * d0 + i * d1 + j * d2] : T(0);
    if (large) {  // row by row is column by column of the transposed product
      const int M = n, N = m, K = k, lc = c1;
      const T one = 1;
      blas(T())(&tb, &ta, &M, &N, &K, &one, b + s * b0, &lb, a + s * a0, &la, &one, c + s * c0, &lc);
      continue;
    }
    for (int64_t i = 0; i < m; i++) {
      T* row = c + s * c0 + i * c1;
      for (int64_t l = 0; l < k; l++) {
        const T x = a[s * a0 + i * a1 + l * a2];
        const T* other = b + s * b0 + l * b1;
        if (b2 == 1 && c2 == 1) for (int64_t j = 0; j < n; j++) row[j] += x * other[j];
        else for (int64_t j = 0; j < n; j++) row[j * c2] += x * other[j * b2];
      }
    }
  }
}

// x (n, m) of a (n, n) x = b (n, m), a triangular, of a batch; strides of batch, rows and columns.
template <typename T>
static void solution(T* x, const T* a, const T* b, int64_t upper, int64_t batch, int64_t n, int64_t m,
                     int64_t x0, int64_t x1, int64_t x2, int64_t a0, int64_t a1, int64_t a2,
                     int64_t b0, int64_t b1, int64_t b2) {
  for (int64_t s = 0; s < batch; s++, x += x0, a += a0, b += b0)
    for (int64_t step = 0; step < n; step++) {
      const int64_t i = upper ? n - 1 - step : step;
      const int64_t from = upper ? i + 1 : 0, to = upper ? n : i;
      for (int64_t j = 0; j < m; j++) {
        T rest = b[i * b1 + j * b2];
        for (int64_t l = from; l < to; l++) rest -= a[i * a1 + l * a2] * x[l * x1 + j * x2];
        x[i * x1 + j * x2] = rest / a[i * a1 + i * a2];
      }
    }
}

// Sums, or products, of a (outer, n, inner) up to each place of its middle dimension.
template <typename T>
static void running(T* x, const T* a, int64_t product, int64_t outer, int64_t n, int64_t inner) {
  for (int64_t o = 0; o < outer; o++)
    for (int64_t j = 0; j < inner; j++) {
      T value = product ? 1 : 0;
      for (int64_t i = 0; i < n; i++) {
        const int64_t at = (o * n + i) * inner + j;
        x[at] = value = product ? value * a[at] : value + a[at];
      }
    }
}
