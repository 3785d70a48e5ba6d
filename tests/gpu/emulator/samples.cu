// Small kernels, sound and faulty, for the tests of the emulator.
#define FOR_TYPES(F) F(float) F(double)

#define ADD(T)                                                                                        \
    extern "C" __global__ void __launch_bounds__(256)                                                 \
    add_##T(const T* __restrict__ x, const T* __restrict__ y, T* __restrict__ z, long long n) {       \
        const long long first = blockIdx.x * (long long)blockDim.x + threadIdx.x;                     \
        for (long long i = first; i < n; i += gridDim.x * blockDim.x)                                 \
            z[i] = x[i] + y[i];                                                                       \
    }
FOR_TYPES(ADD)

template <class T> __device__ __forceinline__ T sum_of_warp(T v) {
    for (int step = 16; step; step /= 2) v += __shfl_xor_sync(0xffffffffu, v, step);
    return v;
}
template <class T> __device__ void sum(const T* x, T* y, int n) {
    __shared__ T part[32];
    T v = 0;
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) v += x[i];
    v = sum_of_warp(v);
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = v;
    __syncthreads();
    if (threadIdx.x < 32) {
        v = sum_of_warp(threadIdx.x < (blockDim.x + 31) / 32 ? part[threadIdx.x] : T(0));
        if (threadIdx.x == 0) y[blockIdx.x] = v;
    }
}
#define SUM(T) extern "C" __global__ void sum_##T(const T* x, T* y, int n) { sum(x, y, n); }
FOR_TYPES(SUM)

// One plane for each z of the block; the grid covers rows and columns.
extern "C" __global__ void transpose(const int* x, int* y, int rows, int columns) {
    __shared__ int tile[2][8][9];
    const int r = blockIdx.y * 8 + threadIdx.y, c = blockIdx.x * 8 + threadIdx.x, plane = threadIdx.z;
    if (r < rows && c < columns) tile[plane][threadIdx.y][threadIdx.x] = x[(plane * rows + r) * columns + c];
    __syncthreads();
    const int to_r = blockIdx.x * 8 + threadIdx.y, to_c = blockIdx.y * 8 + threadIdx.x;
    if (to_r < columns && to_c < rows)
        y[(plane * columns + to_r) * rows + to_c] = tile[plane][threadIdx.x][threadIdx.y];
}

#define MMA(NAME, A, B)                                                                    \
    extern "C" __global__ void NAME##_test(float* d, const unsigned* a, const unsigned* b) { \
        float mine[4];                                                                     \
        const int l = threadIdx.x;                                                         \
        for (int i = 0; i < 4; i++) mine[i] = d[4 * l + i];                                \
        NAME(mine, a + 4 * l, b + 2 * l);                                                  \
        for (int i = 0; i < 4; i++) d[4 * l + i] = mine[i];                                \
    }
MMA(mma_tf32, 8, 1)
MMA(mma_bf16, 16, 2)
MMA(mma_fp16, 16, 2)

extern "C" __global__ void convert(const float* x, unsigned* tf32, unsigned* bf16, unsigned* fp16) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    tf32[i] = to_tf32(x[i]);
    bf16[i] = pack_bf16(x[i], -x[i]);
    fp16[i] = pack_fp16(x[i], -x[i]);
}

extern "C" __global__ void functions(const float* x, float* y) {
    const float v = x[threadIdx.x];
    const float all[] = {rsqrtf(v), sqrtf(v), expf(v), logf(v), fmaxf(v, 1.f), max(v, 1.f), min(v, 1.f),
                         fmaf(v, v, -1.f), __uint_as_float(__float_as_uint(v) ^ 0x80000000u),
                         (float)max((int)threadIdx.x, 3), (float)min(2LL, (long long)threadIdx.x),
                         make_float4(1, 2, 3, v).w, __fsub_rn(__fmul_rn(v, v), 1.f), __ldcg(x + threadIdx.x)};
    for (int i = 0; i < 14; i++) y[14 * threadIdx.x + i] = all[i];
}

// The first `leave` threads return; the others still meet, and pass a number around.
extern "C" __global__ void leave_early(int* y, int leave) {
    __shared__ int seen[256];
    const int t = threadIdx.x;
    if (t < leave) return;
    seen[t] = t;
    __syncthreads();
    y[t] = seen[t + 1 < (int)blockDim.x ? t + 1 : leave];
    __syncthreads();
    seen[t] = -1;
}

// The block that counts itself last adds up what the others have left.
extern "C" __global__ void last_block(const float* x, float* part, unsigned* done, float* y) {
    __shared__ bool last;
    if (threadIdx.x == 0) {
        part[blockIdx.x] = x[blockIdx.x];
        __threadfence();
        last = atomicAdd(done, 1u) == gridDim.x - 1;
    }
    __syncthreads();
    if (last && threadIdx.x == 0) {
        float sum = 0;
        for (unsigned i = 0; i < gridDim.x; i++) sum += part[i];
        y[0] = sum;
    }
}

extern "C" __global__ void shuffles(int* y, int width) {
    const int t = threadIdx.x;
    const unsigned all = 0xffffffffu;
    y[t] = __shfl_sync(all, t, 5, width);
    y[32 + t] = __shfl_xor_sync(all, t, 3, width);
    y[64 + t] = __shfl_down_sync(all, t, 2, width);
    y[96 + t] = __shfl_up_sync(all, t, 2, width);
}
// Each half of the warp by itself, a different number of times.
extern "C" __global__ void half_warps(int* y) {
    int v = threadIdx.x;
    if (threadIdx.x < 16) {
        for (int i = 0; i < 3; i++) v = __shfl_xor_sync(0xffffu, v, 1);
    } else {
        v = __shfl_xor_sync(0xffff0000u, v, 2);
    }
    __syncwarp();
    y[threadIdx.x] = v;
}
extern "C" __global__ void shuffle_from_returned(float* y) {
    if (threadIdx.x == 7) return;
    y[threadIdx.x] = __shfl_xor_sync(0xffffffffu, 1.f, 1);
}

extern "C" __global__ void copy_later(const float* x, float* y, int groups) {
    __shared__ float4 buffer[3][32];
    const int t = threadIdx.x;
    for (int i = 0; i < 3; i++) {
        copy_async16(&buffer[i][t], x + 4 * (32 * i + t), t != 31);
        copy_async_commit();
    }
    if (groups == 0) copy_async_wait<0>();
    if (groups == 1) copy_async_wait<1>();
    if (groups == 2) copy_async_wait<2>();
    for (int i = 0; i < 3; i++) *(float4*)(y + 4 * (32 * i + t)) = buffer[i][t];
}
extern "C" __global__ void copy_crooked(const float* x) {
    __shared__ float4 buffer[1];
    copy_async16(buffer, x + 1, true);
}

template <class T> __device__ void read_unwritten(T* y) {
    __shared__ T memory[32];
    if (blockIdx.x == 0) memory[threadIdx.x] = 1;
    __syncthreads();
    y[blockIdx.x * 32 + threadIdx.x] = memory[threadIdx.x];
}
#define UNWRITTEN(T) extern "C" __global__ void read_unwritten_##T(T* y) { read_unwritten(y); }
FOR_TYPES(UNWRITTEN)

// A barrier is missing between writing and reading.
extern "C" __global__ void race(int* y) {
    __shared__ int memory[64];
    memory[threadIdx.x] = threadIdx.x;
    y[threadIdx.x] = memory[63 - threadIdx.x];
}

extern "C" __global__ void never_meet() {
    if (threadIdx.x < 40) return;
    if (threadIdx.x == 50) __syncwarp();
    __syncthreads();
}
extern "C" __global__ void meet_elsewhere() {
    if (threadIdx.x < 32)
        __syncthreads();
    else
        __syncthreads();
}
extern "C" __global__ void lanes_elsewhere() {
    if (threadIdx.x < 7)
        __syncwarp();
    else
        __shfl_xor_sync(0xffffffffu, 1, 1);
}
extern "C" __global__ void lane_outside() { __syncwarp(0xfffffffeu); }
extern "C" __global__ void half_a_product() {
    float d[4] = {};
    const unsigned a[4] = {}, b[2] = {};
    mma_tf32(d, a, b);
}
extern "C" __global__ void scalars(int* y, int a, long long b, float c, double d, unsigned char* e) {
    *y = a + b + c + d + *e;
}
