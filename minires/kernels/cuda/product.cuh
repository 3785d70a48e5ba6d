// Products of matrices that are loaded a slice at a time, by a block of 128 threads.
//
// The slices of both operands come into shared memory asynchronously, two ahead of the one that is multiplied, SLICE
// of the summed index each.  What is loaded, and from where, is the caller's affair.

#define THREADS 128
#define SLICE 16
#define STAGES 3
#define APART 20  // floats from one row of SLICE to the next: 16-byte aligned, and 8 rows fall on different banks

// What multiplying the slices needs to know of them: element (i, k) of the left one is left[i * LEFT_ROW + k *
// LEFT_K], (k, j) of the right one right[k * RIGHT_K + j * RIGHT_COLUMN].
template <int ROWS, int COLUMNS, int LEFT_ROW, int LEFT_K, int RIGHT_K, int RIGHT_COLUMN>
struct Product {
#if PRECISION == FP32
    // Each thread has every ROW_GROUPS-th row and every COLUMN_GROUPS-th column.
    static const int WIDE = COLUMNS == 64 ? 8 : 4;
    static const int COLUMN_GROUPS = COLUMNS / WIDE, ROW_GROUPS = THREADS / COLUMN_GROUPS, HIGH = ROWS / ROW_GROUPS;
    float sums[HIGH][WIDE];

    __device__ __forceinline__ void clear() {
#pragma unroll
        for (int i = 0; i < HIGH; i++)
#pragma unroll
            for (int j = 0; j < WIDE; j++) sums[i][j] = 0.f;
    }

    __device__ __forceinline__ void add(const float* left, const float* right) {
        const int row = threadIdx.x / COLUMN_GROUPS, column = threadIdx.x % COLUMN_GROUPS;
#pragma unroll
        for (int k = 0; k < SLICE; k++) {
            float a[HIGH], b[WIDE];
#pragma unroll
            for (int i = 0; i < HIGH; i++) a[i] = left[(row + i * ROW_GROUPS) * LEFT_ROW + k * LEFT_K];
#pragma unroll
            for (int j = 0; j < WIDE; j++) b[j] = right[k * RIGHT_K + (column + j * COLUMN_GROUPS) * RIGHT_COLUMN];
#pragma unroll
            for (int i = 0; i < HIGH; i++)
#pragma unroll
                for (int j = 0; j < WIDE; j++) sums[i][j] = fmaf(a[i], b[j], sums[i][j]);
        }
    }

    // Write the sums as a matrix with rows of COLUMNS + 4.
    __device__ __forceinline__ void store(float* tile) {
        const int row = threadIdx.x / COLUMN_GROUPS, column = threadIdx.x % COLUMN_GROUPS;
#pragma unroll
        for (int i = 0; i < HIGH; i++)
#pragma unroll
            for (int j = 0; j < WIDE; j++)
                tile[(row + i * ROW_GROUPS) * (COLUMNS + 4) + column + j * COLUMN_GROUPS] = sums[i][j];
    }
#else
    // Tensor cores: each of the four warps has a quarter of the rows, in pieces of 16 x 8.
    static const int HIGH = ROWS / 64, WIDE = COLUMNS / 8;
    float sums[HIGH][WIDE][4];

    __device__ __forceinline__ void clear() {
#pragma unroll
        for (int i = 0; i < HIGH; i++)
#pragma unroll
            for (int j = 0; j < WIDE; j++)
#pragma unroll
                for (int e = 0; e < 4; e++) sums[i][j][e] = 0.f;
    }

    // g and q: the lane's place in a fragment, (l / 4, l % 4)
    __device__ __forceinline__ void add(const float* left, const float* right) {
        const int g = threadIdx.x % 32 / 4, q = threadIdx.x % 4, first = threadIdx.x / 32 * (ROWS / 4);
#if PRECISION == TF32
#pragma unroll
        for (int k = 0; k < SLICE; k += 8) {
            unsigned b[WIDE][2];
#pragma unroll
            for (int j = 0; j < WIDE; j++)
#pragma unroll
                for (int e = 0; e < 2; e++)
                    b[j][e] = to_tf32(right[(k + q + 4 * e) * RIGHT_K + (j * 8 + g) * RIGHT_COLUMN]);
#pragma unroll
            for (int i = 0; i < HIGH; i++) {
                unsigned a[4];
#pragma unroll
                for (int e = 0; e < 4; e++)
                    a[e] = to_tf32(left[(first + i * 16 + g + e % 2 * 8) * LEFT_ROW + (k + q + e / 2 * 4) * LEFT_K]);
#pragma unroll
                for (int j = 0; j < WIDE; j++) mma_tf32(sums[i][j], a, b[j]);
            }
        }
#else
#if PRECISION == BF16
#define PACK pack_bf16
#define MULTIPLY mma_bf16
#else
#define PACK pack_fp16
#define MULTIPLY mma_fp16
#endif
        unsigned b[WIDE][2];
#pragma unroll
        for (int j = 0; j < WIDE; j++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
                const float* from = right + (2 * q + 8 * e) * RIGHT_K + (j * 8 + g) * RIGHT_COLUMN;
                b[j][e] = PACK(from[0], from[RIGHT_K]);
            }
#pragma unroll
        for (int i = 0; i < HIGH; i++) {
            unsigned a[4];
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const float* from =
                    left + (first + i * 16 + g + e % 2 * 8) * LEFT_ROW + (2 * q + e / 2 * 8) * LEFT_K;
                a[e] = PACK(from[0], from[LEFT_K]);
            }
#pragma unroll
            for (int j = 0; j < WIDE; j++) MULTIPLY(sums[i][j], a, b[j]);
        }
#endif
    }

    __device__ __forceinline__ void store(float* tile) {
        const int g = threadIdx.x % 32 / 4, q = threadIdx.x % 4, first = threadIdx.x / 32 * (ROWS / 4);
#pragma unroll
        for (int i = 0; i < HIGH; i++)
#pragma unroll
            for (int j = 0; j < WIDE; j++)
#pragma unroll
                for (int e = 0; e < 4; e++)
                    tile[(first + i * 16 + g + e / 2 * 8) * (COLUMNS + 4) + j * 8 + 2 * q + e % 2] = sums[i][j][e];
    }
#endif
};

// The product of all slices, as a matrix with rows of COLUMNS + 4 at the beginning of `shared`. load(s, left, right)
// starts to copy slice s, which has SIZE floats, LEFT_SIZE of them for the left operand; it is called for each in
// turn.
template <class Product, int LEFT_SIZE, int SIZE, class Load>
__device__ __forceinline__ void multiply(float* shared, int slices, Load load) {
    Product product;
    product.clear();
    auto begin = [&](int s) {
        if (s < slices) load(s, shared + s % STAGES * SIZE, shared + s % STAGES * SIZE + LEFT_SIZE);
        copy_async_commit();
    };
    for (int s = 0; s < STAGES - 1; s++) begin(s);
    for (int s = 0; s < slices; s++) {
        copy_async_wait<STAGES - 2>();
        __syncthreads();  // slice s is there for all threads, and all are done with the one whose place is next
        begin(s + STAGES - 1);
        product.add(shared + s % STAGES * SIZE, shared + s % STAGES * SIZE + LEFT_SIZE);
    }
    copy_async_wait<0>();
    __syncthreads();
    product.store(shared);
    __syncthreads();
}
