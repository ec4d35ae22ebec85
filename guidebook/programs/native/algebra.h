// BLAS and LAPACK as torch has them, where its library exports them: set once, before anything is called.
#include <limits>
#include <utility>
#include <vector>
typedef void (*Gemm)(const char*, const char*, const int*, const int*, const int*, const void*, const void*,
                     const int*, const void*, const int*, const void*, void*, const int*);
typedef void (*Trsm)(const char*, const char*, const char*, const char*, const int*, const int*, const void*,
                     const void*, const int*, void*, const int*);
typedef void (*Potrf)(const char*, const int*, void*, const int*, int*);
struct Blas { Gemm gemm; Trsm trsm; Potrf potrf; };
static Blas of_double{}, of_float{};
extern "C" void use_blas(Gemm dg, Gemm sg, Trsm dt, Trsm st, Potrf dp, Potrf sp) {
  of_double = {dg, dt, dp};
  of_float = {sg, st, sp};
}
static inline const Blas& blas(double) { return of_double; }
static inline const Blas& blas(float) { return of_float; }

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
  const bool large = m * n * k > 4000 && c2 == 1 && c1 >= n && blas(T()).gemm && readable(m, k, a1, a2, &ta, &la) &&
                     readable(k, n, b1, b2, &tb, &lb);
  for (int64_t s = 0; s < batch; s++) {
    if (beta || !large)  // BLAS writes what it does not add to
      for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++)
          c[s * c0 + i * c1 + j * c2] = beta ? d[s * d0 + i * d1 + j * d2] : T(0);
    if (large) {  // row by row is column by column of the transposed product
      const int M = n, N = m, K = k, lc = c1;
      const T one = 1, added = beta;
      blas(T()).gemm(&tb, &ta, &M, &N, &K, &one, b + s * b0, &lb, a + s * a0, &la, &added, c + s * c0, &lc);
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

// x (n, m) of a (n, n) x = b (n, m), a triangular, by BLAS, where x and a are in a layout that it reads.
template <typename T>
static bool by_blas(T* x, const T* a, bool upper, bool unit, int64_t n, int64_t m, int64_t x1, int64_t x2,
                    int64_t a1, int64_t a2) {
  char turned, given;
  int ahead, la;
  if (n * n * m < 1000 || !blas(T()).trsm || !readable(n, m, x1, x2, &turned, &ahead) ||
      !readable(n, n, a1, a2, &given, &la)) return false;
  const bool rows = turned == 'N';  // BLAS, which reads by columns, has x' in memory, and solves x' a' = b'
  const char side = rows ? 'R' : 'L', half = upper == (given == 'T') ? 'U' : 'L';
  const char flip = rows == (given == 'T') ? 'T' : 'N', diagonal = unit ? 'U' : 'N';
  const int M = rows ? m : n, N = rows ? n : m;
  const T one = 1;
  blas(T()).trsm(&side, &half, &flip, &diagonal, &M, &N, &one, a, &la, x, &ahead);
  return true;
}

// x (n, m) of a (n, n) x = b (n, m), a triangular, of a batch; strides of batch, rows and columns.
template <typename T>
static void solution(T* x, const T* a, const T* b, int64_t upper, int64_t unit, int64_t batch, int64_t n,
                     int64_t m, int64_t x0, int64_t x1, int64_t x2, int64_t a0, int64_t a1, int64_t a2,
                     int64_t b0, int64_t b1, int64_t b2) {
  for (int64_t s = 0; s < batch; s++, x += x0, a += a0, b += b0) {
    if (x != b)
      for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < m; j++) x[i * x1 + j * x2] = b[i * b1 + j * b2];
    if (by_blas(x, a, upper, unit, n, m, x1, x2, a1, a2)) continue;
    for (int64_t step = 0; step < n; step++) {
      const int64_t i = upper ? n - 1 - step : step;
      const int64_t from = upper ? i + 1 : 0, to = upper ? n : i;
      T* row = x + i * x1;
      if (m == 1) {
        T rest = *row;
        for (int64_t l = from; l < to; l++) rest -= a[i * a1 + l * a2] * x[l * x1];
        *row = rest;
      } else for (int64_t l = from; l < to; l++) {
        const T factor = a[i * a1 + l * a2];
        const T* other = x + l * x1;
        if (x2 == 1) for (int64_t j = 0; j < m; j++) row[j] -= factor * other[j];
        else for (int64_t j = 0; j < m; j++) row[j * x2] -= factor * other[j * x2];
      }
      if (!unit) for (int64_t j = 0; j < m; j++) row[j * x2] /= a[i * a1 + i * a2];
    }
  }
}

// The factor f (n, n) of a = f f', in place of a's lower half; the first pivot that is not positive, or 0.
template <typename T> static int64_t factored(T* f, int64_t n, int64_t f1, int64_t f2) {
  char turned;
  int ahead, failed;
  if (n >= 24 && blas(T()).potrf && readable(n, n, f1, f2, &turned, &ahead)) {
    const char half = turned == 'T' ? 'L' : 'U';
    const int N = n;
    blas(T()).potrf(&half, &N, f, &ahead, &failed);
    return failed;
  }
  for (int64_t j = 0; j < n; j++) {
    T* column = f + j * f2;
    for (int64_t k = 0; k < j; k++) {
      const T x = f[j * f1 + k * f2];
      const T* other = f + k * f2;
      if (f1 == 1) for (int64_t i = j; i < n; i++) column[i] -= x * other[i];
      else for (int64_t i = j; i < n; i++) column[i * f1] -= x * other[i * f1];
    }
    if (!(column[j * f1] > 0)) return j + 1;
    const T root = std::sqrt(column[j * f1]);
    column[j * f1] = root;
    for (int64_t i = j + 1; i < n; i++) column[i * f1] /= root;
  }
  return 0;
}

template <typename T> static void no_numbers(T* x, int64_t n, int64_t m, int64_t x1, int64_t x2) {
  for (int64_t i = 0; i < n; i++)
    for (int64_t j = 0; j < m; j++) x[i * x1 + j * x2] = std::numeric_limits<T>::quiet_NaN();
}

// f of a = f f', lower, or a = f' f, upper, of a batch; info (int32) as of `factored`. Where it is not 0, f is
// not a number if that is checked, else what was reached.
template <typename T>
static void cholesky(T* f, const T* a, void* info, int64_t upper, int64_t batch, int64_t n, int64_t f0,
                     int64_t f1, int64_t f2, int64_t a0, int64_t a1, int64_t a2, int64_t checked) {
  if (upper) { std::swap(f1, f2); std::swap(a1, a2); }
  for (int64_t s = 0; s < batch; s++, f += f0, a += a0) {
    for (int64_t i = 0; i < n; i++)
      for (int64_t j = 0; j < n; j++) f[i * f1 + j * f2] = j <= i ? a[i * a1 + j * a2] : T(0);
    const int64_t failed = factored(f, n, f1, f2);
    static_cast<int32_t*>(info)[s] = failed;
    if (failed && checked) no_numbers(f, n, n, f1, f2);
  }
}

// The identity of a batch, (n, n).
template <typename T>
static void identity(T* x, int64_t batch, int64_t n, int64_t x0, int64_t x1, int64_t x2) {
  for (int64_t s = 0; s < batch; s++)
    for (int64_t i = 0; i < n; i++)
      for (int64_t j = 0; j < n; j++) x[s * x0 + i * x1 + j * x2] = i == j;
}

// x of a a' x = b, a lower, or a' a x = b, a upper; of the identity where the inverse is asked for.
template <typename T>
static void of_cholesky(T* x, const T* a, const T* b, int64_t inverse, int64_t upper, int64_t batch,
                        int64_t n, int64_t m, int64_t x0, int64_t x1, int64_t x2, int64_t a0, int64_t a1,
                        int64_t a2, int64_t b0, int64_t b1, int64_t b2) {
  if (upper) std::swap(a1, a2);
  if (inverse) identity(x, batch, n, x0, x1, x2);
  solution(x, a, b, 0, 0, batch, n, m, x0, x1, x2, a0, a1, a2, b0, b1, b2);
  solution(x, a, x, 1, 0, batch, n, m, x0, x1, x2, a0, a2, a1, x0, x1, x2);
}

// a (n, n) = p l u in rows: in `lu` the two factors, in `order` the rows of a. Returns the first pivot that is
// 0, or 0; `odd`: whether an odd number of rows was exchanged.
template <typename T>
static int64_t lu_of(std::vector<T>& lu, std::vector<int64_t>& order, bool* odd, const T* a, int64_t n,
                     int64_t a1, int64_t a2) {
  int64_t failed = 0;
  *odd = false;
  lu.resize(n * n);
  order.resize(n);
  for (int64_t i = 0; i < n; i++) {
    order[i] = i;
    for (int64_t j = 0; j < n; j++) lu[i * n + j] = a[i * a1 + j * a2];
  }
  for (int64_t k = 0; k < n; k++) {
    int64_t best = k;
    for (int64_t i = k + 1; i < n; i++) if (std::abs(lu[i * n + k]) > std::abs(lu[best * n + k])) best = i;
    if (best != k) {
      for (int64_t j = 0; j < n; j++) std::swap(lu[k * n + j], lu[best * n + j]);
      std::swap(order[k], order[best]);
      *odd = !*odd;
    }
    const T pivot = lu[k * n + k];
    if (pivot == 0) { failed = failed ? failed : k + 1; continue; }
    for (int64_t i = k + 1; i < n; i++) {
      const T factor = lu[i * n + k] /= pivot;
      for (int64_t j = k + 1; j < n; j++) lu[i * n + j] -= factor * lu[k * n + j];
    }
  }
  return failed;
}

// x of a x = b; of the identity where the inverse is asked for; info and `checked` as of `cholesky`.
template <typename T>
static void general_solution(T* x, const T* a, const T* b, void* info, int64_t inverse, int64_t batch,
                             int64_t n, int64_t m, int64_t x0, int64_t x1, int64_t x2, int64_t a0,
                             int64_t a1, int64_t a2, int64_t b0, int64_t b1, int64_t b2, int64_t checked) {
  static thread_local std::vector<T> lu;
  static thread_local std::vector<int64_t> order;
  bool odd;
  for (int64_t s = 0; s < batch; s++, x += x0, a += a0, b += b0) {
    const int64_t failed = lu_of(lu, order, &odd, a, n, a1, a2);
    static_cast<int32_t*>(info)[s] = failed;
    for (int64_t i = 0; i < n; i++)
      for (int64_t j = 0; j < m; j++)
        x[i * x1 + j * x2] = inverse ? T(order[i] == j) : b[order[i] * b1 + j * b2];
    solution(x, lu.data(), x, 0, 1, 1, n, m, 0, x1, x2, 0, n, 1, 0, x1, x2);
    solution(x, lu.data(), x, 1, 0, 1, n, m, 0, x1, x2, 0, n, 1, 0, x1, x2);
    if (failed && checked) no_numbers(x, n, m, x1, x2);
  }
}

// Of a batch the signs of the determinants, and the logarithms of their sizes.
template <typename T>
static void determinant(T* sign, T* size, const T* a, int64_t batch, int64_t n, int64_t a0, int64_t a1,
                        int64_t a2) {
  static thread_local std::vector<T> lu;
  static thread_local std::vector<int64_t> order;
  bool odd;
  for (int64_t s = 0; s < batch; s++, a += a0) {
    lu_of(lu, order, &odd, a, n, a1, a2);
    sign[s] = odd ? -1 : 1;
    size[s] = 0;
    for (int64_t i = 0; i < n; i++) {
      const T pivot = lu[i * n + i];
      sign[s] *= pivot > 0 ? 1 : pivot < 0 ? -1 : pivot;
      size[s] += std::log(std::abs(pivot));
    }
  }
}
