// What CUDA text sees when the C++ compiler translates it: the language's words, its vector types and its functions.
//
// The last thread of a warp to arrive at a warp-wide function does that function for all of its lanes.
#pragma once
#include <math.h>

#ifdef EMU_THREADS
#include "os_threads.h"
#else
#include "fibers.h"
#endif
#include "block.h"
#include "launch.h"

#define __global__
#define __device__
#define __host__
#define __constant__
#define __shared__ static __attribute__((used))
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __restrict__ __restrict
#define __align__(bytes) alignas(bytes)
#define __launch_bounds__(...)

struct alignas(8) int2 { int x, y; };
struct alignas(16) int4 { int x, y, z, w; };
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(16) double2 { double x, y; };
static inline int2 make_int2(int x, int y) { return {x, y}; }
static inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
static inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
static inline float2 make_float2(float x, float y) { return {x, y}; }
static inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
static inline double2 make_double2(double x, double y) { return {x, y}; }

// ---- numbers ----
template <class To, class From> static inline To emu_bits(From value) {
    static_assert(sizeof(To) == sizeof(From));
    return __builtin_bit_cast(To, value);
}
static inline unsigned __float_as_uint(float v) { return emu_bits<unsigned>(v); }
static inline float __uint_as_float(unsigned v) { return emu_bits<float>(v); }
static inline int __float_as_int(float v) { return emu_bits<int>(v); }
static inline float __int_as_float(int v) { return emu_bits<float>(v); }

// Of a number and a NaN, min and max give the number, as the card does.
static inline float min(float a, float b) { return fminf(a, b); }
static inline float max(float a, float b) { return fmaxf(a, b); }
static inline double min(double a, double b) { return fmin(a, b); }
static inline double max(double a, double b) { return fmax(a, b); }
#define EMU_MIN_MAX(T)                                      \
    static inline T min(T a, T b) { return b < a ? b : a; } \
    static inline T max(T a, T b) { return a < b ? b : a; }
EMU_MIN_MAX(int)
EMU_MIN_MAX(unsigned)
EMU_MIN_MAX(long long)
EMU_MIN_MAX(unsigned long long)
static inline float rsqrtf(float v) { return 1.0f / sqrtf(v); }
static inline double rsqrt(double v) { return 1.0 / sqrt(v); }

// Each rounded by itself: the compiler must not join two of them into one fmaf.
#define EMU_ROUNDED(NAME, FORMULA)                   \
    static inline float NAME(float a, float b) {     \
        float result = FORMULA;                      \
        asm("" : "+g"(result));                      \
        return result;                               \
    }
EMU_ROUNDED(__fadd_rn, a + b)
EMU_ROUNDED(__fsub_rn, a - b)
EMU_ROUNDED(__fmul_rn, a * b)

// cvt.rna.tf32.f32: 10 bits of mantissa, halves away from zero.
static inline unsigned to_tf32(float v) {
    const unsigned u = __float_as_uint(v);
    if (v != v) return 0x7fffffffu;
    return (u & 0x7f800000u) == 0x7f800000u ? u : (u + 0x1000u) & 0xffffe000u;
}
// cvt.rn: halves to even; what is too large becomes infinite.
static inline unsigned emu_to_bf16(float v) {
    const unsigned u = __float_as_uint(v);
    return v != v ? 0x7fffu : (u + 0x7fffu + (u >> 16 & 1u)) >> 16;
}
static inline unsigned emu_to_fp16(float v) {
    const unsigned u = __float_as_uint(v), sign = u >> 16 & 0x8000u, size = u & 0x7fffffffu;
    if (v != v) return 0x7fffu;
    if (size >= 0x477ff000u) return sign | 0x7c00u;   // 65520 and more
    if (size < 0x38800000u)                           // subnormal: the addition rounds to multiples of 2^-24
        return sign | (__float_as_uint(__uint_as_float(size) + 0.5f) - 0x3f000000u);
    return sign | (size + 0xfffu + (size >> 13 & 1u) - 0x38000000u) >> 13;
}
static inline float emu_from_tf32(unsigned u) { return __uint_as_float(u & 0xffffe000u); }
static inline float emu_from_bf16(unsigned u) { return __uint_as_float(u << 16); }
static inline float emu_from_fp16(unsigned u) {
    const unsigned sign = (u & 0x8000u) << 16, size = (u & 0x7fffu) << 13;
    if (size >= 0x0f800000u) return __uint_as_float(sign | size | 0x7f800000u);
    return __uint_as_float(sign | __float_as_uint(__uint_as_float(size) * 0x1p112f));
}
static inline unsigned pack_bf16(float lo, float hi) { return emu_to_bf16(lo) | emu_to_bf16(hi) << 16; }
static inline unsigned pack_fp16(float lo, float hi) { return emu_to_fp16(lo) | emu_to_fp16(hi) << 16; }

// ---- barriers and memory ----
static inline void __syncthreads(unsigned line = __builtin_LINE()) { emu::meet_block(line); }
static inline void __syncwarp(unsigned mask = 0xffffffffu, unsigned line = __builtin_LINE()) {
    emu::meet_warp("__syncwarp", mask, [](emu::Warp&, unsigned) {}, line);
}
// One block runs after the other, so that what it wrote is there for the next.
static inline void __threadfence() { asm volatile("" ::: "memory"); }
template <class T> static inline T __ldg(const T* p) { return *p; }
template <class T> static inline T __ldcg(const T* p) { return *p; }
static inline int atomicAdd(int* p, int v) { return __atomic_fetch_add(p, v, __ATOMIC_RELAXED); }
static inline unsigned atomicAdd(unsigned* p, unsigned v) { return __atomic_fetch_add(p, v, __ATOMIC_RELAXED); }
template <class T> static inline T atomicExch(T* p, T v) {
    T old;
    __atomic_exchange(p, &v, &old, __ATOMIC_RELAXED);
    return old;
}

// The bytes arrive when they are waited for, no sooner: who forgets to wait reads what was there before.
static inline void copy_async16(void* shared, const void* global, bool valid) {
    emu::Thread& me = *emu::self;
    if (((size_t)shared | (size_t)global) % 16) emu::fail("copy_async16: an address is no multiple of 16");
    if (me.copies == emu::COPIES) emu::fail("copy_async16: more than %u copies of one thread under way", emu::COPIES);
    emu::copies[me.number][me.copies++] = {shared, valid ? global : nullptr, me.groups};
}
static inline void copy_async_commit() { ++emu::self->groups; }
template <int N> static inline void copy_async_wait() {
    emu::Thread& me = *emu::self;
    emu::Copy* copies = emu::copies[me.number];
    unsigned left = 0;
    for (unsigned i = 0; i < me.copies; ++i) {
        const emu::Copy copy = copies[i];
        if (copy.group + N >= me.groups) copies[left++] = copy;
        else if (copy.from) memcpy(copy.to, copy.from, 16);
        else memset(copy.to, 0, 16);
    }
    me.copies = left;
}

// ---- shuffles ----
template <class T> static inline T emu_shuffle(const char* name, unsigned mask, T v, int from, unsigned line) {
    T result;
    const auto exchange = [](emu::Warp& warp, unsigned lanes) {
        for (unsigned lane = 0; lane < 32; ++lane)
            if (lanes >> lane & 1) {
                const emu::Operands& my = warp.request[lane].operands;
                if (lanes >> my.source & 1) *(T*)my.result = *(const T*)warp.request[my.source].operands.a;
                else memset(my.result, 0xff, sizeof(T));    // a lane that is not there: the value is undefined
            }
    };
    emu::meet_warp(name, mask, exchange, line, {&result, &v, nullptr, from});
    return result;
}
// The lane at this place in each segment of `width` lanes; one outside of the own segment gives the own value.
static inline int emu_lane(int lane, int width) {
    const int me = emu::self->number % 32;
    return lane / width == me / width && lane >= 0 ? lane : me;
}
#define EMU_SHUFFLE(NAME, LANE)                                                                                     \
    template <class T>                                                                                              \
    static inline T NAME(unsigned mask, T v, int n, int width = 32, unsigned line = __builtin_LINE()) {             \
        const int me = emu::self->number % 32;                                                                      \
        return emu_shuffle(#NAME, mask, v, emu_lane(LANE, width), line);                                            \
    }
EMU_SHUFFLE(__shfl_sync, me / width * width + n % width)
EMU_SHUFFLE(__shfl_xor_sync, me ^ n)
EMU_SHUFFLE(__shfl_down_sync, me + n)
EMU_SHUFFLE(__shfl_up_sync, me - n)

// ---- tensor cores: D (16, 8) += A (16, K) B (K, 8), the products exact, added to D in float for k = 0, 1, ... ----
// Each register of A and B holds PACK numbers with consecutive k.
template <int K, int PACK, float (*VALUE)(unsigned)> static void emu_mma(emu::Warp& warp, unsigned lanes) {
    if (lanes != 0xffffffffu) emu::fail("mma: needs the 32 lanes of a warp, has the lanes 0x%08x", lanes);
    float a[16][K], b[K][8], d[16][8];
    for (int lane = 0; lane < 32; ++lane) {
        const int g = lane / 4, q = lane % 4;
        const emu::Operands& o = warp.request[lane].operands;
        const float* D = (const float*)o.result;
        const unsigned *A = (const unsigned*)o.a, *B = (const unsigned*)o.b;
        for (int i = 0; i < 4; ++i) {
            d[g + i / 2 * 8][2 * q + i % 2] = D[i];
            for (int p = 0; p < PACK; ++p) {
                a[g + i % 2 * 8][(q + i / 2 * 4) * PACK + p] = VALUE(A[i] >> 16 * p);
                if (i < 2) b[(q + i * 4) * PACK + p][g] = VALUE(B[i] >> 16 * p);
            }
        }
    }
    for (int m = 0; m < 16; ++m)
        for (int k = 0; k < K; ++k)
            for (int n = 0; n < 8; ++n) d[m][n] += a[m][k] * b[k][n];
    for (int lane = 0; lane < 32; ++lane)
        for (int i = 0; i < 4; ++i)
            ((float*)warp.request[lane].operands.result)[i] = d[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2];
}
#define EMU_MMA(NAME, K, PACK, VALUE)                                                                               \
    static inline void NAME(float* d, const unsigned* a, const unsigned* b, unsigned line = __builtin_LINE()) {     \
        emu::meet_warp(#NAME, 0xffffffffu, emu_mma<K, PACK, VALUE>, line, {d, a, b});                               \
    }
EMU_MMA(mma_tf32, 8, 1, emu_from_tf32)
EMU_MMA(mma_bf16, 16, 2, emu_from_bf16)
EMU_MMA(mma_fp16, 16, 2, emu_from_fp16)
