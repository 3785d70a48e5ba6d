// What all kernels share.  The text is compiled three ways: by NVRTC for the card that is there, by NVRTC for cards
// that are not (tests), and by a C++ compiler for the processor (tests, CUDA_EMU), which brings the machine's part
// itself.

// What a product's operands are rounded to; sums, and all that is stored, are float.
#define FP32 0
#define TF32 1
#define BF16 2
#define FP16 3
#ifndef PRECISION
#define PRECISION FP32
#endif

#ifndef CUDA_EMU

// Rounded to nearest, ties away from zero: 10 bits of fraction are left.
__device__ __forceinline__ unsigned to_tf32(float value) {
#if __CUDA_ARCH__ >= 800
    unsigned bits;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));
    return bits;
#else
    return __float_as_uint(value);
#endif
}

// Two numbers rounded to nearest even, the first in the lower half.
__device__ __forceinline__ unsigned pack_bf16(float low, float high) {
    unsigned bits = 0;
#if __CUDA_ARCH__ >= 800
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
#endif
    return bits;
}

__device__ __forceinline__ unsigned pack_fp16(float low, float high) {
    unsigned bits = 0;
#if __CUDA_ARCH__ >= 800
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
#endif
    return bits;
}

// d (16 x 8) += a (16 x 8 or 16 x 16) b, shared out over the 32 lanes of a warp as the PTX manual draws it
// ("Matrix Fragments for mma.m16n8k8 / m16n8k16").
#if __CUDA_ARCH__ >= 800
#define MMA(shape, type)                                                                              \
    asm volatile("mma.sync.aligned." shape ".row.col.f32." type "." type ".f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, " \
                 "{%8,%9}, {%0,%1,%2,%3};"                                                            \
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                                     \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))
#else
#define MMA(shape, type)
#endif
__device__ __forceinline__ void mma_tf32(float* d, const unsigned* a, const unsigned* b) { MMA("m16n8k8", "tf32"); }
__device__ __forceinline__ void mma_bf16(float* d, const unsigned* a, const unsigned* b) { MMA("m16n8k16", "bf16"); }
__device__ __forceinline__ void mma_fp16(float* d, const unsigned* a, const unsigned* b) { MMA("m16n8k16", "f16"); }

// 16 bytes from global to shared memory, zeros if they are not valid, without passing through registers (but through
// the first-level cache, as neighbouring taps see the same pixels): the copy is done when a wait has said so.  Older
// cards copy at once.
__device__ __forceinline__ void copy_async16(void* shared, const void* global, bool valid) {
#if __CUDA_ARCH__ >= 800
    unsigned target = (unsigned)__cvta_generic_to_shared(shared);
    int bytes = valid ? 16 : 0;
    asm volatile("cp.async.ca.shared.global [%0], [%1], 16, %2;" ::"r"(target), "l"(global), "r"(bytes));
#else
    *(float4*)shared = valid ? *(const float4*)global : make_float4(0.f, 0.f, 0.f, 0.f);
#endif
}

__device__ __forceinline__ void copy_async_commit() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;");
#endif
}

// Until at most `pending` of the groups committed last are still on their way.
template <int pending>
__device__ __forceinline__ void copy_async_wait() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;" ::"n"(pending));
#endif
}

#endif  // CUDA_EMU

// Where in the grid this thread stands, for kernels that go through an array in steps of the whole grid.
__device__ __forceinline__ long long first_index() { return blockIdx.x * (long long)blockDim.x + threadIdx.x; }
__device__ __forceinline__ long long grid_size() { return gridDim.x * (long long)blockDim.x; }

__device__ __forceinline__ float4 load4(const float* source) { return *(const float4*)source; }
__device__ __forceinline__ void store4(float* target, float4 value) { *(float4*)target = value; }
