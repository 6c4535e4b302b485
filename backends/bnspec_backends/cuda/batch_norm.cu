// Batch normalization on CUDA devices: four kernels, each for any layout, dtype, number of groups, with or without mask,
// and one for the running state.
//
// A kernel has one argument, a `Call` or an `Update`, whose members are 8 bytes wide, so that packing them cannot go wrong.
// Statistics are float64 throughout: a device whose float64 rate is half or a quarter of float32's waits for memory all the
// same. (On others two float32 numbers stand for one in the loops over many elements: `Twofold`.) So are y and dx, which are
// rounded once to x's dtype, unless x has 16 bits: a conversion between float64 and anything narrower costs as much as four
// float64 operations, so its y and dx are made in float32.
//
// A block sums a part of one channel (Runs) or of some channels whose elements lie side by side (Columns); the block
// that ends last joins the parts, always in the same order. So the bits depend on nothing but shape and layout.
//
// No header is included. With BN_HOST defined the same text is compiled by g++ against an emulator of the device.

typedef long long i64;
typedef unsigned u32;
typedef unsigned short u16;
typedef unsigned char u8;

#ifndef BN_HOST
#define BN_DEV __device__ __forceinline__
#define BN_SHARED(name) extern __shared__ __align__(16) unsigned char name[]
BN_DEV float float_of(u32 bits) { return __uint_as_float(bits); }
BN_DEV u32 bits_of(float v) { return __float_as_uint(v); }
BN_DEV float half_to_float(u16 bits) { float v; asm("cvt.f32.f16 %0, %1;" : "=f"(v) : "h"(bits)); return v; }
BN_DEV float bfloat_to_float(u16 bits) { float v; asm("mov.b32 %0, {%1, %2};" : "=f"(v) : "h"((u16)0), "h"(bits)); return v; }
BN_DEV u16 float_to_half(float v) { u16 bits; asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(v)); return bits; }
BN_DEV float toward_zero(double v) { return __double2float_rz(v); }
// Two numbers that another block may have written: past the cache of the multiprocessor, which knows nothing of it.
BN_DEV void fresh(const double* p, double& a, double& b) {
  asm volatile("ld.global.cg.v2.f64 {%0, %1}, [%2];" : "=d"(a), "=d"(b) : "l"(p));
}
#endif

// One call. Members are in the order of `launching.CALL`; strides are in elements.
struct Call {
  const void* x;         // and where each array below begins, 0 where there is none
  const void* dy;
  void* out;             // y or dx
  const u8* mask;
  i64 groups;            // x is (groups, rows, channels, run) by these strides, run with stride 1
  i64 rows;
  i64 channels;
  i64 run;
  i64 x_row;
  i64 x_channel;
  i64 dy_row;
  i64 dy_channel;
  i64 out_row;
  i64 out_channel;
  i64 mask_row;
  i64 mask_channel;
  i64 lanes;             // Columns: threads side by side in a row; width: channels of a block
  i64 width;
  i64 team;              // threads that join the parts of one channel
  i64 counts;            // numbers of elements of a group: 1, or one for each channel where masks differ
  double* partial;       // (groups*channels, splits, 4 or 2): what blocks leave for the last one
  u32* counters;         // (blocks,), 0 between calls
  i64* count;            // moments: (groups, counts)
  double* divisor;       // the same as float64, 1 for 0: moments makes it where asked for, grad_sums reads it
  double* mean;          // (groups, channels), as all below that are double
  double* low;
  double* m2;
  double* inverse;
  double* centre;
  double* scale;         // normalize: factor of x - centre; grad_input: of dy
  double* shift;         // what is added
  double* slope;         // grad_input: factor of x - centre
  double* s1;
  double* s2;
  double epsilon;
  const void* gamma;     // (channels,) by this stride and of this dtype: 1 float16, 2 bfloat16, 3 float32, 4 float64
  i64 gamma_stride;
  i64 gamma_dtype;
  const void* beta;
  i64 beta_stride;
  i64 beta_dtype;
  void* dgamma;          // (channels,) of gamma's dtype, without gaps; only where there is one group
  void* dbeta;
  const void* running_mean;
  i64 running_mean_stride;
  i64 running_mean_dtype;
  const void* running_var;
  i64 running_var_stride;
  i64 running_var_dtype;
};

// Running averages of one group's statistics. Members are in the order of `launching.UPDATE`.
struct Update {
  const double* mean;    // (channels,), as low and m2: of the batch
  const double* low;
  const double* m2;
  i64 channels;
  double divisor;        // of m2
  double weight;         // of the batch; cumulative: 1/(updates before + 1) in its place
  i64 cumulative;
  i64 skip;              // whether statistics that are not finite change nothing
  double top;            // the largest number that the state can hold
  const void* old_mean;  // (channels,) by this stride and of this dtype, as `Call::gamma`
  i64 old_mean_stride;
  i64 old_mean_dtype;
  const void* old_var;
  i64 old_var_stride;
  i64 old_var_dtype;
  const void* old_count; // updates before, whole numbers of so many bytes; may be absent
  i64 old_count_stride;
  i64 count_bytes;
  void* new_mean;        // (channels,) of the old dtypes, without gaps
  void* new_var;
  void* new_count;
};

// Dtypes ---------------------------------------------------------------------------------------------------------------

struct float16 { u16 bits; };
struct bfloat16 { u16 bits; };
BN_DEV double up(float16 v) { return (double)half_to_float(v.bits); }
BN_DEV double up(bfloat16 v) { return (double)bfloat_to_float(v.bits); }
BN_DEV double up(float v) { return (double)v; }
BN_DEV double up(double v) { return v; }
BN_DEV void widen(float16 v, float& to) { to = half_to_float(v.bits); }
BN_DEV void widen(bfloat16 v, float& to) { to = bfloat_to_float(v.bits); }
BN_DEV void widen(float v, float& to) { to = v; }
template <class T> BN_DEV void widen(T v, double& to) { to = up(v); }

// The float32 next to v toward zero, its last bit set where v lies beyond it. Rounded again to 16 bits, it gives what
// rounding v once would have given: the last bit stands for all that is smaller than it.
BN_DEV float sticky(double v) {
  float near = toward_zero(v);
  return (double)near == v ? near : float_of(bits_of(near) | 1u);  // NaN stays NaN
}
BN_DEV void down(double v, double& to) { to = v; }
BN_DEV void down(double v, float& to) { to = (float)v; }
BN_DEV void down(float v, float16& to) { to.bits = float_to_half(v); }
BN_DEV void down(float v, bfloat16& to) {
  u32 bits = bits_of(v);
  bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
  to.bits = nan ? (u16)0x7fc0 : (u16)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}
BN_DEV void down(double v, float16& to) { down(sticky(v), to); }
BN_DEV void down(double v, bfloat16& to) { down(sticky(v), to); }

template <class T, int V> struct alignas(sizeof(T) * V) Vector { T at[V]; };

// Element i of an array whose dtype is known at run time: parameters and states.
BN_DEV double element(const void* from, i64 dtype, i64 i) {
  if (dtype == 1) return up(((const float16*)from)[i]);
  if (dtype == 2) return up(((const bfloat16*)from)[i]);
  if (dtype == 3) return up(((const float*)from)[i]);
  return ((const double*)from)[i];
}
BN_DEV void put_element(void* to, i64 dtype, i64 i, double v) {
  if (dtype == 1) down(v, ((float16*)to)[i]);
  else if (dtype == 2) down(v, ((bfloat16*)to)[i]);
  else if (dtype == 3) down(v, ((float*)to)[i]);
  else ((double*)to)[i] = v;
}

// What x - mean is multiplied by, and what is added, as `scale_and_shift` of bnspec/_normalize.py has them.
BN_DEV double scale_of(const Call& c, i64 channel, double inverse) {
  return c.gamma ? element(c.gamma, c.gamma_dtype, channel * c.gamma_stride) * inverse : inverse;
}
BN_DEV double shift_of(const Call& c, i64 channel, double low, double scale) {
  double shift = -(low * scale);
  return c.beta ? element(c.beta, c.beta_dtype, channel * c.beta_stride) + shift : shift;
}

// How a thread walks over x ----------------------------------------------------------------------------------------------
// A walk gives V neighbours at a time; a cursor is where they are in one array, and goes on with it. `kept` numbers of a
// thread are kept apart: 1 where all neighbours are of one channel, V where they may be of several. blockIdx.x tells group
// and channels, blockIdx.y the part of them. The elements of one channel and group are counted in 32 bits, since a thread
// divides by them; offsets have 64.

// Where part i of n begins.
BN_DEV u32 cut(u32 length, u32 i, u32 n) { return (u32)((unsigned long long)length * i / n); }

template <int V_> struct Runs {
  static constexpr int V = V_, kept = 1;
  u32 group, first, row, at, vectors, rows_on, vectors_on, step, left;
  BN_DEV explicit Runs(const Call& c) {
    group = blockIdx.x / (u32)c.channels;
    first = blockIdx.x - group * (u32)c.channels;
    vectors = (u32)c.run / V;
    u32 length = (u32)c.rows * vectors, from = cut(length, blockIdx.y, gridDim.y) + threadIdx.x;
    u32 to = cut(length, blockIdx.y + 1, gridDim.y);
    step = blockDim.x;
    left = from < to ? (to - from + step - 1) / step : 0;
    row = from / vectors;
    at = from - row * vectors;
    rows_on = step / vectors;
    vectors_on = step - rows_on * vectors;
  }
  BN_DEV void next() {
    row += rows_on;
    at += vectors_on;
    if (at >= vectors) { at -= vectors; row++; }
  }
  struct Cursor {
    i64 base, row_stride;
    BN_DEV Cursor(const Call& c, const Runs& walk, i64 row_stride_, i64 channel_stride) : row_stride(row_stride_) {
      base = (i64)walk.group * c.rows * row_stride + walk.first * channel_stride;
    }
    BN_DEV i64 offset(const Runs& walk) const { return base + walk.row * row_stride + walk.at * V; }
    BN_DEV void next() {}
  };
  BN_DEV i64 mask_offset(const Call& c, int k) const {
    return ((i64)group * c.rows + row) * c.mask_row + first * c.mask_channel + at * V + k;
  }
  BN_DEV u32 channel(int) const { return first; }
  BN_DEV bool begins(int) const { return !threadIdx.x; }  // one thread of each channel
  static BN_DEV u32 slot(const Call&, int) { return threadIdx.x; }
  static BN_DEV u32 slots_of_channel(const Call&) { return blockDim.x; }
};

template <int V_> struct Columns {
  static constexpr int V = V_, kept = V_;
  u32 group, first, row, left, step, channels[V_], places[V_];  // of each column: its channel, its place in the run
  i64 column;
  bool inside;
  BN_DEV explicit Columns(const Call& c) {
    u32 run = (u32)c.run, width = (u32)c.width, blocks = ((u32)c.channels + width - 1) / width;
    u32 high = threadIdx.x / (u32)c.lanes, lane = threadIdx.x - high * (u32)c.lanes;
    group = blockIdx.x / blocks;
    first = (blockIdx.x - group * blocks) * width;
    u32 channel = lane * V / run, place = lane * V - channel * run;
    inside = first + channel < (u32)c.channels;
    column = (i64)first * run + lane * V;
#pragma unroll
    for (int k = 0; k < V; k++) {
      channels[k] = inside ? first + channel : first;
      places[k] = place;
      if (++place == run) { place = 0; channel++; }
    }
    step = blockDim.x / (u32)c.lanes;
    row = cut((u32)c.rows, blockIdx.y, gridDim.y) + high;
    u32 to = cut((u32)c.rows, blockIdx.y + 1, gridDim.y);
    left = inside && row < to ? (to - row + step - 1) / step : 0;
  }
  BN_DEV void next() { row += step; }
  struct Cursor {
    i64 at, on;
    BN_DEV Cursor(const Call& c, const Columns& walk, i64 row_stride, i64) {
      at = ((i64)walk.group * c.rows + walk.row) * row_stride + walk.column;
      on = walk.step * row_stride;
    }
    BN_DEV i64 offset(const Columns&) const { return at; }
    BN_DEV void next() { at += on; }
  };
  BN_DEV i64 mask_offset(const Call& c, int k) const {
    return ((i64)group * c.rows + row) * c.mask_row + channels[k] * c.mask_channel + places[k];
  }
  BN_DEV u32 channel(int k) const { return channels[k]; }
  BN_DEV bool begins(int k) const { return inside && !places[k] && threadIdx.x < blockDim.x / step; }
  // The threads that share a column stand side by side, then the columns of a channel.
  static BN_DEV u32 slot(const Call& c, int k) {
    u32 high = threadIdx.x / (u32)c.lanes, lane = threadIdx.x - high * (u32)c.lanes;
    return (lane * V + k) * (blockDim.x / (u32)c.lanes) + high;
  }
  static BN_DEV u32 slots_of_channel(const Call& c) { return (u32)c.run * (blockDim.x / (u32)c.lanes); }
};

// Calls use(load()) for all that a thread walks over, U loads before the first use.
template <int U, class Walk, class Load, class Use> BN_DEV void visit(Walk& walk, Load load, Use use) {
  using Got = decltype(load());
  u32 left = walk.left;
  for (; left >= U; left -= U) {
    Got got[U];
#pragma unroll
    for (int u = 0; u < U; u++) {
      got[u] = load();
      walk.next();
    }
#pragma unroll
    for (int u = 0; u < U; u++) use(got[u]);
  }
  if (!left) return;
  Got got[U];
#pragma unroll
  for (int u = 0; u < U; u++) {
    if (u >= (int)left) continue;
    got[u] = load();
    walk.next();
  }
#pragma unroll
  for (int u = 0; u < U; u++)
    if (u < (int)left) use(got[u]);
}

// An array that a kernel reads vector by vector, and the one that it writes.
template <class T, class Walk> struct Reader {
  const T* from;
  typename Walk::Cursor cursor;
  BN_DEV Reader(const Call& c, const Walk& walk, const void* array, i64 row_stride, i64 channel_stride)
      : from((const T*)array), cursor(c, walk, row_stride, channel_stride) {}
  BN_DEV Vector<T, Walk::V> here(const Walk& walk) const { return *(const Vector<T, Walk::V>*)(from + cursor.offset(walk)); }
  BN_DEV Vector<T, Walk::V> next(const Walk& walk) {
    Vector<T, Walk::V> got = here(walk);
    cursor.next();
    return got;
  }
};
template <class T, class Walk> struct Writer {
  T* to;
  Walk walk;  // its own, which is behind that of the reader
  typename Walk::Cursor cursor;
  BN_DEV Writer(const Call& c, const Walk& walk_)
      : to((T*)c.out), walk(walk_), cursor(c, walk_, c.out_row, c.out_channel) {}
  BN_DEV void next(const Vector<T, Walk::V>& v) {
    *(Vector<T, Walk::V>*)(to + cursor.offset(walk)) = v;
    cursor.next();
    walk.next();
  }
};

// x of some neighbours, dy of them where there is one, and which of them the mask takes.
template <class T, int V, bool Masked> struct OfX {
  Vector<T, V> x;
  bool takes[Masked ? V : 1];
  BN_DEV bool counts(int k) const { return !Masked || takes[Masked ? k : 0]; }
};
template <class T, class G, int V, bool Masked> struct OfXAndDy : OfX<T, V, Masked> {
  Vector<G, V> dy;
};
template <int V, bool Masked, class Walk, class Got> BN_DEV void load_mask(const Call& c, const Walk& walk, Got& got) {
  if (Masked)
#pragma unroll
    for (int k = 0; k < V; k++) got.takes[Masked ? k : 0] = c.mask[walk.mask_offset(c, k)];
}
// Reads x and dy side by side.
template <class T, class G, class Walk, bool Masked> struct PairReader {
  using Got = OfXAndDy<T, G, Walk::V, Masked>;
  const Call& c;
  const Walk& walk;
  Reader<T, Walk> x;
  Reader<G, Walk> dy;
  BN_DEV PairReader(const Call& c_, const Walk& walk_)
      : c(c_), walk(walk_), x(c_, walk_, c_.x, c_.x_row, c_.x_channel), dy(c_, walk_, c_.dy, c_.dy_row, c_.dy_channel) {}
  BN_DEV Got next() {
    Got got;
    got.x = x.next(walk);
    got.dy = dy.next(walk);
    load_mask<Walk::V, Masked>(c, walk, got);
    return got;
  }
};

// Joining parts ----------------------------------------------------------------------------------------------------------

// The sum of a and of b over the threads of a team, in a fixed tree, in every thread of it. All threads call it.
BN_DEV void team_sum(double& a, double& b, u32 team, double* slots) {
  u32 t = threadIdx.x, p = t % team;
  double* more = slots + 2 * blockDim.x;
  slots[t] = a;
  more[t] = b;
  __syncthreads();
  for (u32 half = team / 2; half; half >>= 1) {
    if (p < half) {
      slots[t] += slots[t + half];
      more[t] += more[t + half];
    }
    __syncthreads();
  }
  a = slots[t - p];
  b = more[t - p];
  __syncthreads();
}

// Moments of a part: its count, a number near its values, the sum of x - value, and the sum of squares about its own mean.
struct Part {
  static constexpr u32 numbers = 4;  // that it has in memory
  double n, value, sum, m2;
};
// Parts of one channel, or of gradients in the same way: what the threads of a block left in shared memory, and what blocks
// left in global memory.
struct Own {
  static constexpr u32 ahead = 1;
  const double* from;
  u32 each, count;  // numbers of a part, and how many parts there are
  BN_DEV Part moments(u32 i) const {
    const double* p = from + i * each;
    return {p[0], p[1], p[2], p[3]};
  }
  BN_DEV void sums(u32 i, double& a, double& b) const { a = from[i * each], b = from[i * each + 1]; }
};
struct Left {
  static constexpr u32 ahead = 3;
  const double* from;
  u32 each, count;
  BN_DEV Part moments(u32 i) const {
    Part part;
    fresh(from + i * each, part.n, part.value);
    fresh(from + i * each + 2, part.sum, part.m2);
    return part;
  }
  BN_DEV void sums(u32 i, double& a, double& b) const { fresh(from + i * each, a, b); }
};

// Calls use(part) for all parts of a thread of the team, `Parts::ahead` loads before the first use; past the end zeros.
template <class Parts, class Use> BN_DEV void each_part(Parts parts, u32 team, Use use) {
  constexpr u32 ahead = Parts::ahead;
  for (u32 i = threadIdx.x % team; i < parts.count; i += ahead * team) {
    Part got[ahead];
#pragma unroll
    for (u32 k = 0; k < ahead; k++) {
      u32 at = i + k * team;
      got[k] = at < parts.count ? parts.moments(at) : Part{0, 0, 0, 0};
    }
#pragma unroll
    for (u32 k = 0; k < ahead; k++) use(got[k]);
  }
}

// The first part that is not empty.
template <class Parts> BN_DEV Part first_of(Parts parts) {
  Part first{0, 0, 0, 0};
  for (u32 i = 0; i < parts.count && !(first.n > 0); i++) first = parts.moments(i);
  return first;
}

// Moments of all parts, about the value of the first; in every thread of the team.
BN_DEV Part join(Own parts, u32 team, double* slots) {
  double value = first_of(parts).value, n = 0, sum = 0, m2 = 0, nothing = 0;
  each_part(parts, team, [&](const Part& part) {
    n += part.n;
    sum += part.n > 0 ? part.sum + part.n * (part.value - value) : 0;
  });
  team_sum(n, sum, team, slots);
  double mean = n > 0 ? sum / n : 0;
  each_part(parts, team, [&](const Part& part) {
    double apart = (part.sum / part.n + (part.value - value)) - mean;
    m2 += part.n > 0 ? part.m2 + part.n * (apart * apart) : 0;
  });
  team_sum(m2, nothing, team, slots);
  return {n, value, sum, m2};
}

// The same in one pass, since these parts are far away: about the mean of the first. That is the mean of many elements, so
// it is near, beside the deviation, or what it takes from the sum of squares is itself a large part of it.
BN_DEV Part join(Left parts, u32 team, double* slots) {
  Part first = first_of(parts);
  double mean = first.value + first.sum / first.n, value = mean - mean == 0 ? mean : first.value;
  double n = 0, sum = 0, square = 0, nothing = 0;
  each_part(parts, team, [&](const Part& part) {
    double apart = part.sum + part.n * (part.value - value);
    n += part.n;
    sum += part.n > 0 ? apart : 0;
    square += part.n > 0 ? part.m2 + apart * (apart / part.n) : 0;
  });
  team_sum(n, sum, team, slots);
  team_sum(square, nothing, team, slots);
  double m2 = n > 0 ? square - sum * (sum / n) : 0;
  return {n, value, sum, m2 < 0 ? 0 : m2};  // NaN stays
}

// Both sums of all parts of gradients.
struct Sums {
  static constexpr u32 numbers = 2;
  double s1, s2;
};
template <class Parts> BN_DEV Sums join_sums(Parts parts, u32 team, double* slots) {
  double s1 = 0, s2 = 0;
  for (u32 i = threadIdx.x % team; i < parts.count; i += 4 * team) {
    double a[4], b[4];
#pragma unroll
    for (u32 k = 0; k < 4; k++) {
      u32 at = i + k * team;
      a[k] = b[k] = 0;
      if (at < parts.count) parts.sums(at, a[k], b[k]);
    }
#pragma unroll
    for (u32 k = 0; k < 4; k++) s1 += a[k], s2 += b[k];
  }
  team_sum(s1, s2, team, slots);
  return {s1, s2};
}
template <class Parts> BN_DEV void join_into(Part& to, Parts parts, u32 team, double* slots) { to = join(parts, team, slots); }
template <class Parts> BN_DEV void join_into(Sums& to, Parts parts, u32 team, double* slots) { to = join_sums(parts, team, slots); }

// True in the block that comes last of those that share a counter, once all of them have written their parts.
BN_DEV bool last_to_come(u32* counter, u32* flag) {
  __threadfence();
  __syncthreads();
  if (!threadIdx.x) {
    *flag = atomicAdd(counter, 1u) == gridDim.y - 1;
    if (*flag) {
      __threadfence();
      *counter = 0;
    }
  }
  __syncthreads();
  return *flag != 0;
}

// Calls finish(channel, joined parts, whether this thread writes, whether they are a block's) for every channel, a team
// each: first with the parts that the threads left in `mine`, then, where a channel was split over blocks, in the last
// block with what the blocks left. Joined is Part or Sums.
template <class Joined, class Walk, class Finish>
BN_DEV void by_channel(const Call& c, const Walk& walk, const double* mine, double* slots, u32* flag, Finish finish) {
  constexpr u32 each = Joined::numbers;
  u32 threads = (u32)c.team, team = threadIdx.x / threads, teams = blockDim.x / threads;
  u32 here = min((u32)c.width, (u32)c.channels - walk.first), own = Walk::slots_of_channel(c);
  bool split = gridDim.y > 1, writes = !(threadIdx.x % threads);
  Joined joined;
  for (u32 k = 0; k < here; k += teams) {  // as often in every thread: all come to the barriers
    bool used = team < teams && k + team < here;
    u32 channel = used ? k + team : 0;
    join_into(joined, Own{mine + (i64)channel * own * each, each, used ? own : 0}, threads, slots);
    finish(walk.first + channel, joined, used && writes, split);
  }
  if (!split || !last_to_come(c.counters + blockIdx.x, flag)) return;
  for (u32 k = 0; k < here; k += teams) {
    bool used = team < teams && k + team < here;
    i64 channel = walk.first + (used ? k + team : 0), at = walk.group * c.channels + channel;
    join_into(joined, Left{c.partial + at * gridDim.y * each, each, used ? gridDim.y : 0}, threads, slots);
    finish(channel, joined, used && writes, false);
  }
}

// Elementwise formulas in float32 -----------------------------------------------------------------------------------------

// Whether a factor keeps its digits in float32, and products with it of numbers that 16 bits hold stay in its range
// unless the result leaves that of x's dtype too.
BN_DEV bool is_moderate(double v) {
  double size = fabs(v);
  return size == 0 || (size >= 0x1p-100 && size <= 0x1p100);
}

// The factors of factor*(x - centre) + shift in float32: what rounding the centre misses goes into the shift. False
// where float32 does not do: factors of an extreme size, or a shift that rounding twice to T would make another number
// (y of a constant channel is nothing but the shift).
template <class T> BN_DEV bool narrow(double centre, double factor, double shift, float* to) {
  to[0] = (float)centre;
  to[1] = (float)factor;
  double all = shift + ((double)to[0] - centre) * factor;
  to[2] = (float)all;
  T once, twice;
  down(all, once);
  down(to[2], twice);
  return is_moderate(centre) && is_moderate(factor) && is_moderate(all) && once.bits == twice.bits;
}

// What narrow arithmetic needs: 16 bits of x, and dy of no more digits than float32.
template <class T, class G = float> constexpr bool is_narrow = sizeof(T) == 2 && sizeof(G) <= 4;

// Two float32 numbers for one ----------------------------------------------------------------------------------------------
// For devices whose float64 is slow: sums and products in float32 whose errors are computed too, and kept in a second number.
// That is about 46 bits. The bound of few elements is nearer than that, so plans use it from 1024 elements on. Nothing here
// reaches where float32 ends, or where the error of a product would be subnormal: there float64 computes anew.

// By what a kernel computes what each element needs.
struct Wide { static constexpr bool twofold = false; };
struct Twofold { static constexpr bool twofold = true; };

// a + b as it is rounded, and what that misses.
BN_DEV float two_sum(float a, float b, float& missed) {
  float sum = a + b, from = sum - a;
  missed = (a - (sum - from)) + (b - from);
  return sum;
}

struct Twice {
  float high = 0, low = 0;
  BN_DEV double wide() const { return (double)high + (double)low; }
  // Adds v + rest, of which rest is small beside v.
  BN_DEV void add(float v, float rest) {
    float missed, sum = two_sum(high, v, missed);
    low += missed + rest;
    high = sum + low;
    low -= high - sum;
  }
};
BN_DEV Twice twice(double v) {
  Twice made;
  made.high = (float)v;
  made.low = (float)(v - (double)made.high);
  return made;
}

// The sizes of sums that are not near the ends of float32's range.
constexpr float LEAST_SUM = 0x1p-80f, MOST_SUM = 0x1p124f;

BN_DEV float middle_of(float a, float b, float c) {
  float low = a < b ? a : b, high = a < b ? b : a, least = high < c ? high : c;
  return low > least ? low : least;
}

// A number near what a thread will see of each channel: the middle one of its first three. Were it the first, and that one far
// from all others, their squares would be so large that what is left of them when its part is taken out had few digits.
template <class T, class Walk> BN_DEV void near_values(const Call& c, Walk walk, float (&near)[Walk::kept]) {
  constexpr int A = Walk::kept, V = Walk::V, ahead = A > 1 ? 3 : (V + 2) / V;
  Reader<T, Walk> x(c, walk, c.x, c.x_row, c.x_channel);
  float first[A][3] = {};
  int seen = 0;
#pragma unroll
  for (int i = 0; i < ahead; i++) {
    if (i >= (int)walk.left) continue;
    Vector<T, V> got = x.next(walk);
    walk.next();
    seen = A > 1 ? i + 1 : (i + 1) * V;
#pragma unroll
    for (int k = 0; k < V; k++) {
      const int a = A == 1 ? 0 : k, at = A > 1 ? i : i * V + k;
      if (at < 3) widen(got.at[k], first[a][at < 3 ? at : 0]);
    }
  }
#pragma unroll
  for (int k = 0; k < A; k++) near[k] = seen < 3 ? first[k][0] : middle_of(first[k][0], first[k][1], first[k][2]);
}

// What the loop of moments adds up. False, and nothing written, where float32's range does not do.
template <class T, int U, class Walk>
BN_DEV bool moments_in_twofold(const Call& c, Walk walk, double (&value)[Walk::kept], double (&sum)[Walk::kept],
                               double (&square)[Walk::kept]) {
  constexpr int A = Walk::kept, V = Walk::V;
  float near[A];
  near_values<T>(c, walk, near);
  Twice s[A], q[A];
  bool apart[A];
#pragma unroll
  for (int k = 0; k < A; k++) apart[k] = false;
  Reader<T, Walk> x(c, walk, c.x, c.x_row, c.x_channel);
  using Got = Vector<T, V>;
  visit<U>(walk, [&]() { return x.next(walk); }, [&](const Got& got) {
#pragma unroll
    for (int k = 0; k < V; k++) {
      const int a = A == 1 ? 0 : k;
      float v, low;
      widen(got.at[k], v);
      float high = two_sum(v, -near[a], low), product = high * high, rest = fmaf(high, high, -product);
      s[a].add(high, low);
      q[a].add(product, fmaf(high + high, low, rest));
      apart[a] = apart[a] || high != 0;
    }
  });
  bool does = true;
#pragma unroll
  for (int k = 0; k < A; k++) does = does && q[k].high <= MOST_SUM && !(apart[k] && q[k].high < LEAST_SUM);  // false for NaN
  if (!does) return false;
#pragma unroll
  for (int k = 0; k < A; k++) {
    value[k] = (double)near[k];
    sum[k] = s[k].wide();
    square[k] = q[k].wide();
  }
  return true;
}

// What the loop of grad_sums adds up, about float32(centre); the rest of the centre is taken out at the end.
template <class T, class G, int U, class Walk>
BN_DEV bool grad_sums_in_twofold(const Call& c, Walk walk, const double (&centre)[Walk::kept], double (&s1)[Walk::kept],
                                 double (&s2)[Walk::kept]) {
  constexpr int A = Walk::kept, V = Walk::V;
  float near[A], most[A];
  Twice s[A], q[A];
  bool lost[A];
#pragma unroll
  for (int k = 0; k < A; k++) {
    near[k] = (float)centre[k];
    most[k] = 0;
    lost[k] = false;
  }
  using Pairs = PairReader<T, G, Walk, false>;
  Pairs pairs(c, walk);
  visit<U>(walk, [&]() { return pairs.next(); }, [&](const typename Pairs::Got& got) {
#pragma unroll
    for (int k = 0; k < V; k++) {
      const int a = A == 1 ? 0 : k;
      float v, g, low;
      widen(got.x.at[k], v);
      widen(got.dy.at[k], g);
      float high = two_sum(v, -near[a], low), product = g * high, rest = fmaf(g, high, -product), size = fabsf(product);
      s[a].add(g, 0);
      q[a].add(product, fmaf(g, low, rest));
      most[a] = size > most[a] ? size : most[a];
      lost[a] = lost[a] || (size == 0 && g != 0 && high != 0);
    }
  });
  bool does = true;
#pragma unroll
  for (int k = 0; k < A; k++) {
    does = does && fabsf(s[k].high) <= MOST_SUM && fabsf(q[k].high) <= MOST_SUM && most[k] <= MOST_SUM;
    does = does && !(most[k] < LEAST_SUM && (most[k] > 0 || lost[k]));
  }
  if (!does) return false;
#pragma unroll
  for (int k = 0; k < A; k++) {
    s1[k] = s[k].wide();
    s2[k] = q[k].wide() - (centre[k] - (double)near[k]) * s1[k];
  }
  return true;
}

// factor*(x - centre) + shift of one channel: the centre in float32, and what it misses in the shift.
struct Affine {
  float near;
  Twice factor, shift;
  // The product, what it misses, and x - near as it is rounded.
  BN_DEV float product(float v, float& missed, float& apart) const {
    float low;
    apart = two_sum(v, -near, low);
    float made = factor.high * apart;
    missed = fmaf(factor.low, apart, fmaf(factor.high, low, fmaf(factor.high, apart, -made)));
    return made;
  }
};
BN_DEV bool is_near_one(double v) {
  double size = fabs(v);
  return size == 0 || (size >= 0x1p-60 && size <= 0x1p60);
}
BN_DEV bool affine(double centre, double factor, double shift, Affine& to) {
  to.near = (float)centre;
  double all = shift + ((double)to.near - centre) * factor;
  to.factor = twice(factor);
  to.shift = twice(all);
  return is_near_one(centre) && is_near_one(factor) && is_near_one(all);
}
// Whether a result has all its digits, since nothing that it was made of was subnormal or infinite.
BN_DEV bool is_whole(float v) {
  float size = fabsf(v);
  return size >= 0x1p-100f && size <= 0x1p126f;  // false for NaN
}

// y of a thread's elements of float32. False, and nothing written, where the factors of a channel are extreme.
template <int U, class Walk> BN_DEV bool normalize_in_twofold(const Call& c, Walk& walk, const double (&wide)[Walk::kept][3]) {
  constexpr int A = Walk::kept, V = Walk::V;
  Affine of[A];
  bool does = true;
#pragma unroll
  for (int k = 0; k < A; k++) does = affine(wide[k][0], wide[k][1], wide[k][2], of[k]) && does;
  if (!does) return false;
  Reader<float, Walk> x(c, walk, c.x, c.x_row, c.x_channel);
  Writer<float, Walk> y(c, walk);
  using Got = Vector<float, V>;
  visit<U>(walk, [&]() { return x.next(walk); }, [&](const Got& got) {
    Got made;
#pragma unroll
    for (int k = 0; k < V; k++) {
      const Affine& f = of[A == 1 ? 0 : k];
      float missed, apart, left, product = f.product(got.at[k], missed, apart), sum = two_sum(product, f.shift.high, left);
      made.at[k] = sum + ((left + missed) + f.shift.low);
      if (is_whole(sum) || (sum == 0 && apart == 0)) continue;
      i64 at = walk.group * c.channels + walk.channel(k);
      down(((double)got.at[k] - c.centre[at]) * c.scale[at] + c.shift[at], made.at[k]);
    }
    y.next(made);
  });
  return true;
}

// dx of a thread's elements of float32.
template <class G, int U, class Walk>
BN_DEV bool grad_input_in_twofold(const Call& c, Walk& walk, const double (&scale)[Walk::kept],
                                  const double (&wide)[Walk::kept][3]) {
  constexpr int A = Walk::kept, V = Walk::V;
  Affine of[A];
  Twice own[A];
  bool does = true;
#pragma unroll
  for (int k = 0; k < A; k++) {
    own[k] = twice(scale[k]);
    does = affine(wide[k][0], wide[k][1], wide[k][2], of[k]) && is_near_one(scale[k]) && does;
  }
  if (!does) return false;
  using Pairs = PairReader<float, G, Walk, false>;
  Pairs pairs(c, walk);
  Writer<float, Walk> dx(c, walk);
  visit<U>(walk, [&]() { return pairs.next(); }, [&](const typename Pairs::Got& got) {
    Vector<float, V> made;
#pragma unroll
    for (int k = 0; k < V; k++) {
      const int a = A == 1 ? 0 : k;
      float g, missed, apart, left, more, product = of[a].product(got.x.at[k], missed, apart);
      widen(got.dy.at[k], g);
      float alone = own[a].high * g;
      missed += fmaf(own[a].low, g, fmaf(own[a].high, g, -alone));
      float sum = two_sum(two_sum(alone, product, left), of[a].shift.high, more);
      made.at[k] = sum + ((left + more) + (missed + of[a].shift.low));
      if (is_whole(sum) || (sum == 0 && g == 0 && (apart == 0 || of[a].factor.high == 0))) continue;
      i64 at = walk.group * c.channels + walk.channel(k);
      double of_statistics = ((double)got.x.at[k] - c.centre[at]) * c.slope[at] + c.shift[at];
      down((double)g * c.scale[at] + of_statistics, made.at[k]);
    }
    dx.next(made);
  });
  return true;
}

// Kernels ------------------------------------------------------------------------------------------------------------------

// Count, mean, its low part and m2 of every group and channel; 1/sqrt(var + epsilon), scale and shift where asked for.
template <class T, class Walk, int U, bool Masked, class Arithmetic = Wide> BN_DEV void moments(const Call& c) {
  BN_SHARED(shared);
  Walk walk(c);
  constexpr int A = Walk::kept, V = Walk::V;
  double value[A], sum[A], square[A];
  u32 n[Masked ? A : 1];
#pragma unroll
  for (int k = 0; k < A; k++) value[k] = sum[k] = square[k] = 0;
#pragma unroll
  for (int k = 0; k < (Masked ? A : 1); k++) n[k] = 0;

  bool done = false;
  if constexpr (Arithmetic::twofold) done = moments_in_twofold<T, U>(c, walk, value, sum, square);
  if (!done) {
    Reader<T, Walk> x(c, walk, c.x, c.x_row, c.x_channel);
    using Got = OfX<T, V, Masked>;
    auto load = [&]() {
      Got got;
      got.x = x.next(walk);
      load_mask<V, Masked>(c, walk, got);
      return got;
    };
    if (!Masked && walk.left) {
      Vector<T, V> got = x.here(walk);
#pragma unroll
      for (int k = 0; k < A; k++) value[k] = up(got.at[k]);
    }
    visit<Arithmetic::twofold ? 1 : U>(walk, load, [&](const Got& got) {
#pragma unroll
      for (int k = 0; k < V; k++) {
        const int a = A == 1 ? 0 : k;
        if (!got.counts(k)) continue;
        double v = up(got.x.at[k]);
        if (Masked && !n[Masked ? a : 0]++) value[a] = v;
        double d = v - value[a];
        sum[a] += d;
        square[a] = fma(d, d, square[a]);
      }
    });
  }
  if (!Masked) n[0] = walk.left * (A == 1 ? V : 1);

  double* mine = (double*)shared;
  double* slots = mine + 4 * A * blockDim.x;
#pragma unroll
  for (int k = 0; k < A; k++) {
    double own = n[Masked ? k : 0];
    double m2 = own > 0 ? square[k] - sum[k] * sum[k] / own : 0;
    double* p = mine + 4 * Walk::slot(c, k);
    p[0] = own;
    p[1] = value[k];
    p[2] = sum[k];
    p[3] = m2 < 0 ? 0 : m2;  // NaN stays
  }
  __syncthreads();
  u32* flag = (u32*)(slots + 4 * blockDim.x);
  by_channel<Part>(c, walk, mine, slots, flag, [&](i64 channel, const Part& all, bool writes, bool split) {
    if (!writes) return;
    i64 at = walk.group * c.channels + channel;
    if (split) {
      volatile double* p = c.partial + (at * gridDim.y + blockIdx.y) * 4;
      p[0] = all.n;
      p[1] = all.value;
      p[2] = all.sum;
      p[3] = all.m2;
      return;
    }
    double n = all.n > 0 ? all.n : 1;
    double from = all.sum / n, high = all.value + from, back = high - all.value;
    double low = (all.value - (high - back)) + (from - back);
    c.mean[at] = high;
    c.low[at] = low;
    c.m2[at] = all.m2;
    if (channel < c.counts) {
      i64 of_count = walk.group * c.counts + channel;
      c.count[of_count] = (i64)all.n;
      if (c.divisor) c.divisor[of_count] = n;
    }
    if (!c.inverse) return;
    double inverse = 1.0 / sqrt(all.m2 / n + c.epsilon);
    double scale = scale_of(c, channel, inverse);
    c.inverse[at] = inverse;
    c.scale[at] = scale;
    c.shift[at] = shift_of(c, channel, low, scale);
  });
}

// y = (x - centre)*scale + shift of a thread's elements, in arithmetic R.
template <class R, class T, int U, class Walk>
BN_DEV void normalize_in(const Call& c, Walk& walk, const R (&factors)[Walk::kept][3]) {
  constexpr int A = Walk::kept, V = Walk::V;
  Reader<T, Walk> x(c, walk, c.x, c.x_row, c.x_channel);
  Writer<T, Walk> y(c, walk);
  using Got = Vector<T, V>;
  visit<U>(walk, [&]() { return x.next(walk); }, [&](const Got& got) {
    Vector<T, V> made;
#pragma unroll
    for (int k = 0; k < V; k++) {
      const R* f = factors[A == 1 ? 0 : k];
      R v;
      widen(got.at[k], v);
      down((v - f[0]) * f[1] + f[2], made.at[k]);
    }
    y.next(made);
  });
}

// y = (x - centre)*scale + shift; centre, scale and shift are given, or follow from running statistics.
template <class T, class Walk, int U, bool Running, class Arithmetic = Wide> BN_DEV void normalize(const Call& c) {
  Walk walk(c);
  constexpr int A = Walk::kept;
  double wide[A][3];
#pragma unroll
  for (int k = 0; k < A; k++) {
    i64 channel = walk.channel(k), at = walk.group * c.channels + channel;
    if (Running) {
      double mean = element(c.running_mean, c.running_mean_dtype, channel * c.running_mean_stride);
      double var = element(c.running_var, c.running_var_dtype, channel * c.running_var_stride);
      double inverse = 1.0 / sqrt(var + c.epsilon), scale = scale_of(c, channel, inverse);
      wide[k][0] = mean;
      wide[k][1] = scale;
      wide[k][2] = shift_of(c, channel, 0.0, scale);
      if (walk.begins(k) && !walk.group && !blockIdx.y) {
        c.mean[channel] = mean;
        c.low[channel] = 0;
        c.inverse[channel] = inverse;
      }
    } else {
      wide[k][0] = c.centre[at];
      wide[k][1] = c.scale[at];
      wide[k][2] = c.shift[at];
    }
  }
  if constexpr (is_narrow<T>) {
    float factors[A][3];
    bool does = true;
#pragma unroll
    for (int k = 0; k < A; k++) does = narrow<T>(wide[k][0], wide[k][1], wide[k][2], factors[k]) && does;
    if (does) return normalize_in<float, T, U>(c, walk, factors);
  }
  if constexpr (Arithmetic::twofold)
    if (normalize_in_twofold<U>(c, walk, wide)) return;
  normalize_in<double, T, is_narrow<T> || Arithmetic::twofold ? 1 : U>(c, walk, wide);
}

// sum dy and sum dy*(x - centre) of every group and channel; the factors of grad_input, dgamma and dbeta where asked for. Then
// every dy counts, masked or not, since every y depends on the statistics; of x only a masked one that is not finite does not.
template <class T, class G, class Walk, int U, bool Masked, class Arithmetic = Wide> BN_DEV void grad_sums(const Call& c) {
  BN_SHARED(shared);
  Walk walk(c);
  constexpr int A = Walk::kept, V = Walk::V;
  double centre[A], s1[A], s2[A];
#pragma unroll
  for (int k = 0; k < A; k++) {
    centre[k] = c.centre[walk.group * c.channels + walk.channel(k)];
    s1[k] = s2[k] = 0;
  }
  double lost[Masked ? A : 1];  // dy beside an x that does not count
#pragma unroll
  for (int k = 0; k < (Masked ? A : 1); k++) lost[k] = 0;
  bool done = false, every = c.scale;
  if constexpr (Arithmetic::twofold) done = grad_sums_in_twofold<T, G, U>(c, walk, centre, s1, s2);
  if (!done) {
    using Pairs = PairReader<T, G, Walk, Masked>;
    Pairs pairs(c, walk);
    visit<Arithmetic::twofold ? 1 : U>(walk, [&]() { return pairs.next(); }, [&](const typename Pairs::Got& got) {
#pragma unroll
      for (int k = 0; k < V; k++) {
        const int a = A == 1 ? 0 : k;
        if (!got.counts(k) && !every) continue;
        double g = up(got.dy.at[k]), v = up(got.x.at[k]);
        s1[a] += g;
        if (got.counts(k) || v - v == 0) s2[a] = fma(g, v - centre[a], s2[a]);
        else lost[Masked ? a : 0] += g;
      }
    });
  }
  if (Masked && every)
#pragma unroll
    for (int k = 0; k < A; k++) s2[k] += lost[Masked ? k : 0] * c.low[walk.group * c.channels + walk.channel(k)];

  double* mine = (double*)shared;
  double* slots = mine + 2 * A * blockDim.x;
#pragma unroll
  for (int k = 0; k < A; k++) {
    double* p = mine + 2 * Walk::slot(c, k);
    p[0] = s1[k];
    p[1] = s2[k];
  }
  __syncthreads();
  u32* flag = (u32*)(slots + 4 * blockDim.x);
  by_channel<Sums>(c, walk, mine, slots, flag, [&](i64 channel, const Sums& sums, bool writes, bool split) {
    if (!writes) return;
    double s1 = sums.s1, s2 = sums.s2;
    i64 at = walk.group * c.channels + channel;
    if (split) {
      volatile double* p = c.partial + (at * gridDim.y + blockIdx.y) * 2;
      p[0] = s1;
      p[1] = s2;
      return;
    }
    if (!c.scale) {
      c.s1[at] = s1;
      c.s2[at] = s2;
      return;
    }
    double low = c.low[at], inverse = c.inverse[at], n = c.divisor[walk.group * c.counts + (c.counts > 1 ? channel : 0)];
    s2 -= low * s1;
    double a = scale_of(c, channel, inverse);
    double b = -a * (inverse * (inverse * (s2 / n)));
    c.s1[at] = s1;
    c.s2[at] = s2;
    c.scale[at] = a;
    c.slope[at] = b;
    c.shift[at] = -a * (s1 / n) - b * low;
    if (c.dgamma) put_element(c.dgamma, c.gamma_dtype, channel, s2 * inverse);
    if (c.dbeta) put_element(c.dbeta, c.beta_dtype, channel, s1);
  });
}

// dx = scale*dy + m*(slope*(x - centre) + shift) of a thread's elements, in arithmetic R; m is the mask as 0 and 1.
template <class R, class T, class G, int U, bool Masked, class Walk>
BN_DEV void grad_input_in(const Call& c, Walk& walk, const R (&scale)[Walk::kept], const R (&factors)[Walk::kept][3]) {
  constexpr int A = Walk::kept, V = Walk::V;
  using Pairs = PairReader<T, G, Walk, Masked>;
  Pairs pairs(c, walk);
  Writer<T, Walk> dx(c, walk);
  visit<U>(walk, [&]() { return pairs.next(); }, [&](const typename Pairs::Got& got) {
    Vector<T, V> made;
#pragma unroll
    for (int k = 0; k < V; k++) {
      const R* f = factors[A == 1 ? 0 : k];
      R v, g;
      widen(got.x.at[k], v);
      widen(got.dy.at[k], g);
      R of_statistics = got.counts(k) ? (v - f[0]) * f[1] + f[2] : 0;
      down(g * scale[A == 1 ? 0 : k] + of_statistics, made.at[k]);
    }
    dx.next(made);
  });
}

// dx = scale*dy + m*(slope*(x - centre) + shift).
template <class T, class G, class Walk, int U, bool Masked, class Arithmetic = Wide> BN_DEV void grad_input(const Call& c) {
  Walk walk(c);
  constexpr int A = Walk::kept;
  double scale[A], wide[A][3];
#pragma unroll
  for (int k = 0; k < A; k++) {
    i64 at = walk.group * c.channels + walk.channel(k);
    scale[k] = c.scale[at];
    wide[k][0] = c.centre[at];
    wide[k][1] = c.slope[at];
    wide[k][2] = c.shift[at];
  }
  if constexpr (is_narrow<T, G>) {
    float own[A], factors[A][3];
    bool does = c.rows * c.run >= 16;  // of few values the terms of dx nearly cancel: of two, all but epsilon's part
#pragma unroll
    for (int k = 0; k < A; k++) {
      own[k] = (float)scale[k];
      does = narrow<T>(wide[k][0], wide[k][1], wide[k][2], factors[k]) && is_moderate(scale[k]) && does;
    }
    if (does) return grad_input_in<float, T, G, U, Masked>(c, walk, own, factors);
  }
  if constexpr (Arithmetic::twofold)
    if (grad_input_in_twofold<G, U>(c, walk, scale, wide)) return;
  grad_input_in<double, T, G, is_narrow<T, G> || Arithmetic::twofold ? 1 : U, Masked>(c, walk, scale, wide);
}

// `old + w*(batch - old)`; weight 1 takes the batch and weight 0 keeps the old value, to the bit.
BN_DEV double moved(double old, double batch, double w) {
  if (w == 1) return batch;
  return w == 0 ? old : old + w * (batch - old);
}

// One step of the running averages, as `_step` of bnspec/_running.py has it: a thread for each channel.
BN_DEV void update(const Update& u) {
  i64 channel = (i64)blockIdx.x * blockDim.x + threadIdx.x;
  if (channel >= u.channels) return;
  double mean = u.mean[channel] + u.low[channel], var = u.m2[channel] / u.divisor, w = u.weight;
  bool takes = !u.skip || (fabs(mean) <= u.top && fabs(var) <= u.top);  // false where it is NaN
  if (u.old_count) {
    i64 at = channel * u.old_count_stride, most = u.count_bytes == 4 ? 0x7fffffff : 0x7fffffffffffffff;
    i64 before = u.count_bytes == 4 ? ((const int*)u.old_count)[at] : ((const i64*)u.old_count)[at];
    i64 after = takes && before < most ? before + 1 : before;  // it stops there rather than wrap
    if (u.count_bytes == 4) ((int*)u.new_count)[channel] = (int)after;
    else ((i64*)u.new_count)[channel] = after;
    if (u.cumulative) w = 1.0 / ((double)before + 1.0);
  }
  double old_mean = element(u.old_mean, u.old_mean_dtype, channel * u.old_mean_stride);
  double old_var = element(u.old_var, u.old_var_dtype, channel * u.old_var_stride);
  put_element(u.new_mean, u.old_mean_dtype, channel, takes ? moved(old_mean, mean, w) : old_mean);
  put_element(u.new_var, u.old_var_dtype, channel, takes ? moved(old_var, var, w) : old_var);
}
