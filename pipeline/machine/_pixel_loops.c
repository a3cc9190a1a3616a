/* Loops over pixels that NumPy would make in many passes, one after the other, each through memory.
 *
 * What they compute is written in NumPy beside each caller and tested to be the same, bit by bit: every float operation
 * rounds once, in the order of the text (the build forbids the compiler to fuse a product with a sum). Arrays are of
 * known types with contiguous rows; shapes are checked here, so that a wrong call is a ValueError and nothing worse.
 * The interpreter's lock is released meanwhile.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <float.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

/* The same loop for processors with wider registers, chosen when the library is loaded; AVX2 has no fused operations. */
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && defined(__gnu_linux__)
#define WIDE __attribute__((target_clones("avx2", "default")))
#else
#define WIDE
#endif

#define MAX_ARRAYS 12
#define CELL 8

typedef struct {
    Py_buffer views[MAX_ARRAYS];
    int count;
} Arrays;

static void release(Arrays *arrays) {
    while (arrays->count > 0) PyBuffer_Release(&arrays->views[--arrays->count]);
}

/* Takes an array of `ndim` axes and items of `size` bytes whose last axis is contiguous; NULL: an error is set. */
static Py_buffer *take(Arrays *arrays, PyObject *object, int ndim, Py_ssize_t size, int writable) {
    Py_buffer *view = &arrays->views[arrays->count];
    if (PyObject_GetBuffer(object, view, PyBUF_STRIDES | (writable ? PyBUF_WRITABLE : 0)) < 0) return NULL;
    arrays->count++;
    int fits = view->ndim == ndim && view->itemsize == size;
    if (fits && ndim > 0) fits = view->shape[ndim - 1] <= 1 || view->strides[ndim - 1] == size;
    if (!fits) {
        PyErr_SetString(PyExc_ValueError, "an array has other axes, items or strides than the loop");
        return NULL;
    }
    return view;
}

static int same(const Py_buffer *a, int a_axis, const Py_buffer *b, int b_axis, int axes) {
    for (int i = 0; i < axes; i++)
        if (a->shape[a_axis + i] != b->shape[b_axis + i]) {
            PyErr_SetString(PyExc_ValueError, "arrays of a loop have other shapes than each other");
            return 0;
        }
    return 1;
}

static int holds(int condition, const char *message) {
    if (!condition) PyErr_SetString(PyExc_ValueError, message);
    return condition;
}

#define ROW2(type, view, y) ((type *)((char *)(view)->buf + (y) * (view)->strides[0]))
#define ROW3(type, view, z, y) ((type *)((char *)(view)->buf + (z) * (view)->strides[0] + (y) * (view)->strides[1]))

/* --- patches ---------------------------------------------------------------------------------------------------- */

static int32_t root32(int32_t *parent, int32_t a) {
    while (parent[a] != a) {
        parent[a] = parent[parent[a]]; /* path halving */
        a = parent[a];
    }
    return a;
}

static int64_t root64(int64_t *parent, int64_t a) {
    while (parent[a] != a) {
        parent[a] = parent[parent[a]];
        a = parent[a];
    }
    return a;
}

/* label_block(codes, mapped, labels, parent, sizes) -> count: 8-connected components of equal codes, from 1 on. */
WIDE static PyObject *label_block(PyObject *module, PyObject *args) {
    PyObject *o[5];
    Arrays arrays = {.count = 0};
    if (!PyArg_ParseTuple(args, "OOOOO", &o[0], &o[1], &o[2], &o[3], &o[4])) return NULL;
    Py_buffer *codes = take(&arrays, o[0], 2, 1, 0), *mapped = codes ? take(&arrays, o[1], 2, 1, 0) : NULL;
    Py_buffer *labels = mapped ? take(&arrays, o[2], 2, 4, 1) : NULL;
    Py_buffer *parents = labels ? take(&arrays, o[3], 1, 4, 1) : NULL, *sizes = parents ? take(&arrays, o[4], 1, 8, 1) : NULL;
    if (!sizes || !same(codes, 0, mapped, 0, 2) || !same(codes, 0, labels, 0, 2) ||
        !holds(codes->shape[0] * codes->shape[1] < INT32_MAX, "a block is too large") ||
        !holds(parents->shape[0] > codes->shape[0] * codes->shape[1] && sizes->shape[0] == parents->shape[0],
               "parent and sizes have one entry more than pixels")) {
        release(&arrays);
        return NULL;
    }
    const Py_ssize_t height = codes->shape[0], width = codes->shape[1];
    int32_t *parent = parents->buf, used = 1, count = 0;
    int64_t *size = sizes->buf;
    Py_BEGIN_ALLOW_THREADS
    for (Py_ssize_t y = 0; y < height; y++) {
        const uint8_t *code = ROW2(uint8_t, codes, y), *there = ROW2(uint8_t, mapped, y);
        const uint8_t *code_above = y ? ROW2(uint8_t, codes, y - 1) : code, *above = y ? ROW2(uint8_t, mapped, y - 1) : there;
        int32_t *label = ROW2(int32_t, labels, y), *label_above = y ? ROW2(int32_t, labels, y - 1) : label;
        for (Py_ssize_t x = 0; x < width; x++) {
            if (!there[x]) {
                label[x] = 0;
                continue;
            }
            const uint8_t own = code[x];
            /* Neighbours that touch each other have been joined before: the one straight above speaks for all. */
            if (y && above[x] && code_above[x] == own) {
                label[x] = label_above[x];
                continue;
            }
            const int west = x && there[x - 1] && code[x - 1] == own;
            const int north_west = y && x && above[x - 1] && code_above[x - 1] == own;
            const int north_east = y && x + 1 < width && above[x + 1] && code_above[x + 1] == own;
            int32_t found;
            if (west) found = label[x - 1];
            else if (north_west) found = label_above[x - 1];
            else if (north_east) found = label_above[x + 1];
            else {
                found = used;
                parent[used] = used;
                used++;
            }
            label[x] = found;
            if (north_east && (west || north_west)) {
                int32_t a = root32(parent, found), b = root32(parent, label_above[x + 1]);
                parent[a > b ? a : b] = a < b ? a : b;
            }
        }
    }
    for (int32_t i = 1; i < used; i++) { /* a parent is smaller than its children: it has its final number already */
        if (parent[i] == i) {
            parent[i] = ++count;
            size[count] = 0;
        } else parent[i] = parent[parent[i]];
    }
    for (Py_ssize_t y = 0; y < height; y++) {
        int32_t *label = ROW2(int32_t, labels, y);
        for (Py_ssize_t x = 0; x < width; x++)
            if (label[x]) size[label[x] = parent[label[x]]]++;
    }
    Py_END_ALLOW_THREADS
    release(&arrays);
    return PyLong_FromLong(count);
}

/* codes_of_labels(codes, labels, found): found[label - 1] = code of each label. */
WIDE static PyObject *codes_of_labels(PyObject *module, PyObject *args) {
    PyObject *o[3];
    Arrays arrays = {.count = 0};
    if (!PyArg_ParseTuple(args, "OOO", &o[0], &o[1], &o[2])) return NULL;
    Py_buffer *codes = take(&arrays, o[0], 2, 1, 0), *labels = codes ? take(&arrays, o[1], 2, 4, 0) : NULL;
    Py_buffer *found = labels ? take(&arrays, o[2], 1, 1, 1) : NULL;
    if (!found || !same(codes, 0, labels, 0, 2)) {
        release(&arrays);
        return NULL;
    }
    uint8_t *of = found->buf;
    int inside = 1;
    Py_BEGIN_ALLOW_THREADS
    for (Py_ssize_t y = 0; y < codes->shape[0]; y++) {
        const uint8_t *code = ROW2(uint8_t, codes, y);
        const int32_t *label = ROW2(int32_t, labels, y);
        for (Py_ssize_t x = 0; x < codes->shape[1]; x++) {
            if (label[x] < 0 || label[x] > found->shape[0]) inside = 0;
            else if (label[x]) of[label[x] - 1] = code[x];
        }
    }
    Py_END_ALLOW_THREADS
    release(&arrays);
    if (!holds(inside, "a label has no place")) return NULL;
    Py_RETURN_NONE;
}

/* join_lines(ours, theirs, parent, code): two lines of pixels; each touches its opposite and the two beside that one. */
static PyObject *join_lines(PyObject *module, PyObject *args) {
    PyObject *o[4];
    Arrays arrays = {.count = 0};
    if (!PyArg_ParseTuple(args, "OOOO", &o[0], &o[1], &o[2], &o[3])) return NULL;
    Py_buffer *ours = take(&arrays, o[0], 1, 8, 0), *theirs = ours ? take(&arrays, o[1], 1, 8, 0) : NULL;
    Py_buffer *parents = theirs ? take(&arrays, o[2], 1, 8, 1) : NULL, *codes = parents ? take(&arrays, o[3], 1, 1, 0) : NULL;
    if (!codes || !same(ours, 0, theirs, 0, 1) || !same(parents, 0, codes, 0, 1)) {
        release(&arrays);
        return NULL;
    }
    const int64_t *own = ours->buf, *other = theirs->buf, labels = parents->shape[0];
    int64_t *parent = parents->buf;
    const uint8_t *code = codes->buf;
    const Py_ssize_t size = ours->shape[0];
    int inside = 1;
    for (Py_ssize_t x = 0; x < size; x++) inside &= own[x] >= 0 && own[x] < labels && other[x] >= 0 && other[x] < labels;
    for (Py_ssize_t x = 0; inside && x < size; x++)
        for (Py_ssize_t beside = x ? x - 1 : 0; own[x] && beside < size && beside < x + 2; beside++)
            if (other[beside] && code[own[x]] == code[other[beside]]) {
                int64_t a = root64(parent, own[x]), b = root64(parent, other[beside]);
                parent[a > b ? a : b] = a < b ? a : b;
            }
    release(&arrays);
    if (!holds(inside, "a label has no place")) return NULL;
    Py_RETURN_NONE;
}

/* --- sums per class ---------------------------------------------------------------------------------------------- */

/* add_pixels(codes, inside, confidence, valid_count, nodata, counts, confidences) -> (pixels, observations) */
WIDE static PyObject *add_pixels(PyObject *module, PyObject *args) {
    PyObject *o[6];
    int nodata;
    Arrays arrays = {.count = 0};
    if (!PyArg_ParseTuple(args, "OOOOiOO", &o[0], &o[1], &o[2], &o[3], &nodata, &o[4], &o[5])) return NULL;
    Py_buffer *v[6];
    for (int i = 0; i < 6; i++) {
        v[i] = take(&arrays, o[i], i < 4 ? 2 : 1, i < 4 ? 1 : 8, i >= 4);
        if (!v[i] || (i && i < 4 && !same(v[0], 0, v[i], 0, 2)) || (i >= 4 && !holds(v[i]->shape[0] == 256, "256 codes"))) {
            release(&arrays);
            return NULL;
        }
    }
    int64_t *counts = v[4]->buf, *confidences = v[5]->buf, pixels = 0, observations = 0;
    Py_BEGIN_ALLOW_THREADS
    for (Py_ssize_t y = 0; y < v[0]->shape[0]; y++) {
        const uint8_t *code = ROW2(uint8_t, v[0], y), *inside = ROW2(uint8_t, v[1], y);
        const uint8_t *confidence = ROW2(uint8_t, v[2], y), *valid = ROW2(uint8_t, v[3], y);
        for (Py_ssize_t x = 0; x < v[0]->shape[1]; x++) {
            if (!inside[x]) continue;
            pixels++;
            if (code[x] == nodata) continue;
            counts[code[x]]++;
            confidences[code[x]] += confidence[x];
            observations += valid[x];
        }
    }
    Py_END_ALLOW_THREADS
    release(&arrays);
    return Py_BuildValue("LL", (long long)pixels, (long long)observations);
}

/* cell_means(codes, indices, positions, nodata, means): int16 [I, h, w] -> int16 [I, K, rows, columns] */
WIDE static PyObject *cell_means(PyObject *module, PyObject *args) {
    PyObject *o[4];
    int nodata;
    Arrays arrays = {.count = 0};
    if (!PyArg_ParseTuple(args, "OOOiO", &o[0], &o[1], &o[2], &nodata, &o[3])) return NULL;
    Py_buffer *codes = take(&arrays, o[0], 2, 1, 0), *indices = codes ? take(&arrays, o[1], 3, 2, 0) : NULL;
    Py_buffer *positions = indices ? take(&arrays, o[2], 1, 2, 0) : NULL, *means = positions ? take(&arrays, o[3], 4, 2, 1) : NULL;
    if (!means || !same(codes, 0, indices, 1, 2) || !same(indices, 0, means, 0, 1) ||
        !holds(positions->shape[0] == 256, "256 codes") ||
        !holds(means->shape[2] == (codes->shape[0] + CELL - 1) / CELL && means->shape[3] == (codes->shape[1] + CELL - 1) / CELL,
               "cells of 8 px") ||
        !holds(PyBuffer_IsContiguous(means, 'C'), "means are contiguous")) {
        release(&arrays);
        return NULL;
    }
    const Py_ssize_t height = codes->shape[0], width = codes->shape[1];
    const Py_ssize_t layers = means->shape[0], classes = means->shape[1], rows = means->shape[2], columns = means->shape[3];
    const int16_t *position = positions->buf;
    int inside = classes < 256;
    for (int i = 0; i < 256; i++) inside &= position[i] < classes;
    int32_t sums[256], known[256];
    int16_t *out = means->buf;
    Py_BEGIN_ALLOW_THREADS
    for (Py_ssize_t row = 0; inside && row < rows; row++)
        for (Py_ssize_t column = 0; column < columns; column++) {
            const Py_ssize_t top = row * CELL, left = column * CELL;
            const Py_ssize_t h = height - top < CELL ? height - top : CELL, w = width - left < CELL ? width - left : CELL;
            int16_t of[CELL * CELL];
            for (Py_ssize_t y = 0; y < h; y++)
                for (Py_ssize_t x = 0; x < w; x++) of[y * CELL + x] = position[ROW2(uint8_t, codes, top + y)[left + x]];
            for (Py_ssize_t layer = 0; layer < layers; layer++) {
                memset(sums, 0, sizeof(int32_t) * classes);
                memset(known, 0, sizeof(int32_t) * classes);
                for (Py_ssize_t y = 0; y < h; y++) {
                    const int16_t *value = ROW3(int16_t, indices, layer, top + y) + left;
                    for (Py_ssize_t x = 0; x < w; x++) {
                        const int16_t channel = of[y * CELL + x];
                        if (channel >= 0 && value[x] != nodata) {
                            sums[channel] += value[x];
                            known[channel]++;
                        }
                    }
                }
                for (Py_ssize_t channel = 0; channel < classes; channel++)
                    out[((layer * classes + channel) * rows + row) * columns + column] =
                        (int16_t)(known[channel] ? rint((double)sums[channel] / known[channel]) : nodata);
            }
        }
    Py_END_ALLOW_THREADS
    release(&arrays);
    if (!holds(inside, "a class has no place")) return NULL;
    Py_RETURN_NONE;
}

/* class_sums(codes, inside, first_row, first_column, means, positions, nodata, pixels, sums, counts)
 * `pixels` comes as zeros [K, rows, columns]; the first pixel lies first_row, first_column behind its cell's first. */
WIDE static PyObject *class_sums(PyObject *module, PyObject *args) {
    PyObject *o[7];
    int nodata;
    Py_ssize_t first_row, first_column;
    Arrays arrays = {.count = 0};
    if (!PyArg_ParseTuple(args, "OOnnOOiOOO", &o[0], &o[1], &first_row, &first_column, &o[2], &o[3], &nodata, &o[4], &o[5], &o[6]))
        return NULL;
    static const int axes[] = {2, 2, 4, 1, 3, 2, 2}, items[] = {1, 1, 2, 2, 4, 8, 8};
    Py_buffer *v[7];
    for (int i = 0; i < 7; i++) {
        v[i] = take(&arrays, o[i], axes[i], items[i], i >= 4);
        if (!v[i] || (i >= 2 && !holds(PyBuffer_IsContiguous(v[i], 'C'), "arrays of cells are contiguous"))) {
            release(&arrays);
            return NULL;
        }
    }
    const Py_ssize_t height = v[0]->shape[0], width = v[0]->shape[1];
    const Py_ssize_t layers = v[2]->shape[0], classes = v[2]->shape[1], cells = v[2]->shape[2] * v[2]->shape[3];
    const int16_t *position = v[3]->buf;
    int inside = v[3]->shape[0] == 256 && first_row >= 0 && first_row < CELL && first_column >= 0 && first_column < CELL &&
                 (first_row + height + CELL - 1) / CELL <= v[2]->shape[2] &&
                 (first_column + width + CELL - 1) / CELL <= v[2]->shape[3];
    for (int i = 0; inside && i < 256; i++) inside &= position[i] < classes;
    if (!same(v[0], 0, v[1], 0, 2) || !same(v[2], 1, v[4], 0, 3) || !same(v[2], 0, v[5], 0, 2) || !same(v[2], 0, v[6], 0, 2) ||
        !holds(inside, "a pixel has no cell, or a class no place")) {
        release(&arrays);
        return NULL;
    }
    const int16_t *mean = v[2]->buf;
    int32_t *pixels = v[4]->buf;
    int64_t *sums = v[5]->buf, *counts = v[6]->buf;
    Py_BEGIN_ALLOW_THREADS
    for (Py_ssize_t y = 0; y < height; y++) {
        const uint8_t *code = ROW2(uint8_t, v[0], y), *there = ROW2(uint8_t, v[1], y);
        int32_t *row = pixels + (first_row + y) / CELL * v[2]->shape[3];
        for (Py_ssize_t x = 0; x < width; x++) {
            const int16_t channel = position[code[x]];
            if (there[x] && channel >= 0) row[channel * cells + (first_column + x) / CELL]++;
        }
    }
    for (Py_ssize_t layer = 0; layer < layers; layer++)
        for (Py_ssize_t channel = 0; channel < classes; channel++) {
            const int16_t *value = mean + (layer * classes + channel) * cells;
            const int32_t *many = pixels + channel * cells;
            int64_t sum = 0, count = 0;
            for (Py_ssize_t cell = 0; cell < cells; cell++) {
                const int32_t weight = value[cell] == nodata ? 0 : many[cell];
                sum += (int64_t)weight * value[cell];
                count += weight;
            }
            sums[layer * classes + channel] += sum;
            counts[layer * classes + channel] += count;
        }
    Py_END_ALLOW_THREADS
    release(&arrays);
    Py_RETURN_NONE;
}

/* --- scores ------------------------------------------------------------------------------------------------------ */

_Static_assert(FLT_EVAL_METHOD == 0, "float operations are rounded to float");

/* The nearest whole number, half to even, of less than 2^22: what does not fit behind the point is rounded away. */
static inline float whole(float value) {
    const float shift = 12582912.0f; /* 1.5 * 2^23 */
    return (value + shift) - shift;
}

static inline float clipped(float value, float low, float high) {
    value = value < low ? low : value; /* NaN stays */
    return value > high ? high : value;
}

/* finalise(scores, valid_count, mask, codes, nodata, no_confidence, stored, landcover, percent) */
WIDE static PyObject *finalise(PyObject *module, PyObject *args) {
    PyObject *o[7];
    int nodata, no_confidence;
    Arrays arrays = {.count = 0};
    if (!PyArg_ParseTuple(args, "OOOOiiOOO", &o[0], &o[1], &o[2], &o[3], &nodata, &no_confidence, &o[4], &o[5], &o[6])) return NULL;
    static const int axes[] = {3, 2, 2, 1, 3, 2, 2};
    Py_buffer *v[7];
    for (int i = 0; i < 7; i++) {
        v[i] = take(&arrays, o[i], axes[i], i ? 1 : 4, i >= 4);
        if (!v[i]) {
            release(&arrays);
            return NULL;
        }
    }
    if (!same(v[0], 1, v[1], 0, 2) || !same(v[0], 1, v[2], 0, 2) || !same(v[0], 0, v[3], 0, 1) || !same(v[0], 0, v[4], 0, 3) ||
        !same(v[0], 1, v[5], 0, 2) || !same(v[0], 1, v[6], 0, 2) || !holds(v[0]->shape[0] > 0 && v[0]->shape[0] < 256, "classes")) {
        release(&arrays);
        return NULL;
    }
    const Py_ssize_t classes = v[0]->shape[0], height = v[0]->shape[1], width = v[0]->shape[2];
    const uint8_t *codes = v[3]->buf;
    float top[512];
    int32_t highest[512], known[512];
    Py_BEGIN_ALLOW_THREADS
    for (Py_ssize_t y = 0; y < height; y++) {
        const uint8_t *valid = ROW2(uint8_t, v[1], y), *mask = ROW2(uint8_t, v[2], y);
        uint8_t *landcover = ROW2(uint8_t, v[5], y), *percent = ROW2(uint8_t, v[6], y);
        for (Py_ssize_t left = 0; left < width; left += 512) {
            const Py_ssize_t size = width - left < 512 ? width - left : 512;
            for (Py_ssize_t x = 0; x < size; x++) {
                known[x] = mask[left + x] && valid[left + x];
                top[x] = -1.0f;
                highest[x] = 0;
            }
            for (Py_ssize_t k = 0; k < classes; k++) {
                const float *score = ROW3(float, v[0], k, y) + left;
                for (Py_ssize_t x = 0; x < size; x++) {
                    const float value = clipped(score[x], 0.0f, 1.0f);
                    known[x] &= fabsf(score[x]) <= FLT_MAX; /* neither NaN nor infinite */
                    highest[x] = value > top[x] ? (int32_t)k : highest[x];
                    top[x] = value > top[x] ? value : top[x];
                }
            }
            for (Py_ssize_t k = 0; k < classes; k++) {
                const float *score = ROW3(float, v[0], k, y) + left;
                uint8_t *stored = ROW3(uint8_t, v[4], k, y) + left;
                for (Py_ssize_t x = 0; x < size; x++) {
                    const float value = known[x] ? clipped(score[x], 0.0f, 1.0f) : 0.0f;
                    stored[x] = (uint8_t)(int32_t)whole(value * 255.0f);
                }
            }
            for (Py_ssize_t x = 0; x < size; x++) {
                const float value = known[x] ? top[x] : 0.0f;
                landcover[left + x] = known[x] ? codes[highest[x]] : (uint8_t)nodata;
                percent[left + x] = known[x] ? (uint8_t)(int32_t)whole(value * 100.0f) : (uint8_t)no_confidence;
            }
        }
    }
    Py_END_ALLOW_THREADS
    release(&arrays);
    Py_RETURN_NONE;
}

/* --- reflectance ------------------------------------------------------------------------------------------------- */

static inline int16_t scaled(float value) {
    value *= 10000.0f;
    const int known = fabsf(value) <= FLT_MAX;
    const int32_t found = (int32_t)whole(clipped(known ? value : 0.0f, -32767.0f, 32767.0f));
    return (int16_t)(known ? found : INT16_MIN);
}

/* scaled_ratio(a, b, c, d, out): ((a + b) - (c + d)) / floor(sum), int16; without b and d (None) a and c alone. */
WIDE static PyObject *scaled_ratio(PyObject *module, PyObject *args) {
    PyObject *o[5];
    Arrays arrays = {.count = 0};
    if (!PyArg_ParseTuple(args, "OOOOO", &o[0], &o[1], &o[2], &o[3], &o[4])) return NULL;
    const int four = o[1] != Py_None;
    Py_buffer *v[5];
    for (int i = 0; i < 5; i++) {
        PyObject *object = !four && (i == 1 || i == 3) ? o[i - 1] : o[i];
        v[i] = take(&arrays, object, 2, i < 4 ? 4 : 2, i == 4);
        if (!v[i] || (i && !same(v[0], 0, v[i], 0, 2))) {
            release(&arrays);
            return NULL;
        }
    }
    Py_BEGIN_ALLOW_THREADS
    for (Py_ssize_t y = 0; y < v[0]->shape[0]; y++) {
        const float *a = ROW2(float, v[0], y), *b = ROW2(float, v[1], y), *c = ROW2(float, v[2], y), *d = ROW2(float, v[3], y);
        int16_t *out = ROW2(int16_t, v[4], y);
        for (Py_ssize_t x = 0; x < v[0]->shape[1]; x++) {
            const float first = four ? a[x] + b[x] : a[x], second = four ? c[x] + d[x] : c[x];
            const float sum = first + second;
            out[x] = scaled(clipped((first - second) / (sum < 1e-3f ? 1e-3f : sum), -1.0f, 1.0f));
        }
    }
    Py_END_ALLOW_THREADS
    release(&arrays);
    Py_RETURN_NONE;
}

/* numbers(raw, nodata, out): uint16 as float32, NaN where it is nodata (-1: nothing is). */
WIDE static PyObject *numbers(PyObject *module, PyObject *args) {
    PyObject *o[2];
    int nodata;
    Arrays arrays = {.count = 0};
    if (!PyArg_ParseTuple(args, "OiO", &o[0], &nodata, &o[1])) return NULL;
    Py_buffer *raw = take(&arrays, o[0], 2, 2, 0), *out = raw ? take(&arrays, o[1], 2, 4, 1) : NULL;
    if (!out || !same(raw, 0, out, 0, 2)) {
        release(&arrays);
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    for (Py_ssize_t y = 0; y < raw->shape[0]; y++) {
        const uint16_t *from = ROW2(uint16_t, raw, y);
        float *to = ROW2(float, out, y);
        for (Py_ssize_t x = 0; x < raw->shape[1]; x++) to[x] = from[x] == nodata ? NAN : (float)from[x];
    }
    Py_END_ALLOW_THREADS
    release(&arrays);
    Py_RETURN_NONE;
}

static inline int all_known(const float *row, Py_ssize_t width) {
    int known = 1;
    for (Py_ssize_t x = 0; x < width; x++) known &= fabsf(row[x]) <= FLT_MAX;
    return known;
}

/* Values (0 where there is none) and weights of a row, twice as many columns as its inner ones. */
static inline void across(const float *row, Py_ssize_t width, float *values, float *weights) {
    for (Py_ssize_t x = 0; x < width; x++) {
        float value[3], weight[3];
        for (int i = 0; i < 3; i++) {
            const int known = fabsf(row[x + i]) <= FLT_MAX;
            value[i] = known ? row[x + i] : 0.0f;
            weight[i] = known ? 1.0f : 0.0f;
        }
        values[2 * x] = value[0] * 0.25f + value[1] * 0.75f;
        values[2 * x + 1] = value[2] * 0.25f + value[1] * 0.75f;
        weights[2 * x] = weight[0] * 0.25f + weight[1] * 0.75f;
        weights[2 * x + 1] = weight[2] * 0.25f + weight[1] * 0.75f;
    }
}

static inline void across_known(const float *row, Py_ssize_t width, float *values) {
    for (Py_ssize_t x = 0; x < width; x++) {
        values[2 * x] = row[x] * 0.25f + row[x + 1] * 0.75f;
        values[2 * x + 1] = row[x + 2] * 0.25f + row[x + 1] * 0.75f;
    }
}

/* upsample_twice(native, out, scratch): [h + 2, w + 2] -> [2 h, 2 w], see upsampling.py; scratch: float32 [6, 2 w]. */
WIDE static PyObject *upsample_twice(PyObject *module, PyObject *args) {
    PyObject *o[3];
    Arrays arrays = {.count = 0};
    if (!PyArg_ParseTuple(args, "OOO", &o[0], &o[1], &o[2])) return NULL;
    Py_buffer *native = take(&arrays, o[0], 2, 4, 0), *out = native ? take(&arrays, o[1], 2, 4, 1) : NULL;
    Py_buffer *scratch = out ? take(&arrays, o[2], 2, 4, 1) : NULL;
    if (!scratch || !holds(native->shape[0] >= 2 && native->shape[1] >= 2 && out->shape[0] == 2 * (native->shape[0] - 2) &&
                               out->shape[1] == 2 * (native->shape[1] - 2) && scratch->shape[0] == 6 && scratch->shape[1] == out->shape[1],
                           "the fine image has twice the inner pixels of the coarse one")) {
        release(&arrays);
        return NULL;
    }
    const Py_ssize_t height = native->shape[0] - 2, width = native->shape[1] - 2;
    float *values[3], *weights[3];
    int known[3] = {0, 0, 0};
    for (int i = 0; i < 3; i++) {
        values[i] = ROW2(float, scratch, i);
        weights[i] = ROW2(float, scratch, 3 + i);
    }
    Py_BEGIN_ALLOW_THREADS
    for (Py_ssize_t y = -2; y < height; y++) { /* row y + 2 comes into reach; the first two rows only fill the buffers */
        float *value = values[0], *weight = weights[0];
        values[0] = values[1], values[1] = values[2], values[2] = value;
        weights[0] = weights[1], weights[1] = weights[2], weights[2] = weight;
        known[0] = known[1], known[1] = known[2];
        const float *row = ROW2(float, native, y + 2);
        known[2] = all_known(row, width + 2);
        if (known[2]) {
            across_known(row, width, value);
            for (Py_ssize_t x = 0; x < 2 * width; x++) weight[x] = 1.0f;
        } else across(row, width, value, weight);
        if (y < 0) continue;
        const float *centre = ROW2(float, native, y + 1) + 1;
        for (int phase = 0; phase < 2; phase++) {
            const float *beside = values[2 * phase], *beside_weight = weights[2 * phase];
            float *fine = ROW2(float, out, 2 * y + phase);
            if (known[1] && known[2 * phase]) {
                for (Py_ssize_t x = 0; x < 2 * width; x++) fine[x] = beside[x] * 0.25f + values[1][x] * 0.75f;
                continue;
            }
            for (Py_ssize_t x = 0; x < 2 * width; x++) {
                const float sum = beside_weight[x] * 0.25f + weights[1][x] * 0.75f;
                const float found = (beside[x] * 0.25f + values[1][x] * 0.75f) / sum;
                fine[x] = fabsf(centre[x / 2]) <= FLT_MAX ? found : NAN;
            }
        }
    }
    Py_END_ALLOW_THREADS
    release(&arrays);
    Py_RETURN_NONE;
}

/* median_of_two(first, last, middle, count): of values that are there; a single array may be given twice. */
WIDE static PyObject *median_of_two(PyObject *module, PyObject *args) {
    PyObject *o[4];
    Arrays arrays = {.count = 0};
    if (!PyArg_ParseTuple(args, "OOOO", &o[0], &o[1], &o[2], &o[3])) return NULL;
    Py_buffer *v[4];
    for (int i = 0; i < 4; i++) {
        v[i] = take(&arrays, o[i], 2, i == 3 ? 1 : 4, i >= 2);
        if (!v[i] || (i && !same(v[0], 0, v[i], 0, 2))) {
            release(&arrays);
            return NULL;
        }
    }
    const int single = o[0] == o[1];
    Py_BEGIN_ALLOW_THREADS
    for (Py_ssize_t y = 0; y < v[0]->shape[0]; y++) {
        const float *a = ROW2(float, v[0], y), *b = ROW2(float, v[1], y);
        float *middle = ROW2(float, v[2], y);
        uint8_t *count = ROW2(uint8_t, v[3], y);
        for (Py_ssize_t x = 0; x < v[0]->shape[1]; x++) {
            const float first = a[x] == a[x] ? a[x] : b[x], last = b[x] == b[x] ? b[x] : a[x];
            const float found = (first + last) * 0.5f;
            const int known = (fabsf(a[x]) <= FLT_MAX) + (!single && fabsf(b[x]) <= FLT_MAX);
            middle[x] = found == found ? found : NAN;
            count[x] = (uint8_t)known;
        }
    }
    Py_END_ALLOW_THREADS
    release(&arrays);
    Py_RETURN_NONE;
}

/* --- tiles ------------------------------------------------------------------------------------------------------- */

/* count_known(tile, counts): finite values of each band of [bands, h, w]. */
WIDE static PyObject *count_known(PyObject *module, PyObject *args) {
    PyObject *o[2];
    Arrays arrays = {.count = 0};
    if (!PyArg_ParseTuple(args, "OO", &o[0], &o[1])) return NULL;
    Py_buffer *tile = take(&arrays, o[0], 3, 4, 0), *counts = tile ? take(&arrays, o[1], 1, 8, 1) : NULL;
    if (!counts || !same(tile, 0, counts, 0, 1)) {
        release(&arrays);
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    for (Py_ssize_t band = 0; band < tile->shape[0]; band++) {
        int64_t total = 0;
        for (Py_ssize_t y = 0; y < tile->shape[1]; y++) {
            const float *row = ROW3(float, tile, band, y);
            int32_t known = 0;
            for (Py_ssize_t x = 0; x < tile->shape[2]; x++) known += fabsf(row[x]) <= FLT_MAX;
            total += known;
        }
        ((int64_t *)counts->buf)[band] = total;
    }
    Py_END_ALLOW_THREADS
    release(&arrays);
    Py_RETURN_NONE;
}

/* fill_gaps(tile, values, filled): the tile, with the value of its band where it is not finite. */
WIDE static PyObject *fill_gaps(PyObject *module, PyObject *args) {
    PyObject *o[3];
    Arrays arrays = {.count = 0};
    if (!PyArg_ParseTuple(args, "OOO", &o[0], &o[1], &o[2])) return NULL;
    Py_buffer *tile = take(&arrays, o[0], 3, 4, 0), *values = tile ? take(&arrays, o[1], 1, 4, 0) : NULL;
    Py_buffer *filled = values ? take(&arrays, o[2], 3, 4, 1) : NULL;
    if (!filled || !same(tile, 0, values, 0, 1) || !same(tile, 0, filled, 0, 3)) {
        release(&arrays);
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    for (Py_ssize_t band = 0; band < tile->shape[0]; band++) {
        const float value = ((const float *)values->buf)[band];
        for (Py_ssize_t y = 0; y < tile->shape[1]; y++) {
            const float *row = ROW3(float, tile, band, y);
            float *to = ROW3(float, filled, band, y);
            for (Py_ssize_t x = 0; x < tile->shape[2]; x++) to[x] = fabsf(row[x]) <= FLT_MAX ? row[x] : value;
        }
    }
    Py_END_ALLOW_THREADS
    release(&arrays);
    Py_RETURN_NONE;
}

static PyMethodDef loops[] = {
    {"label_block", label_block, METH_VARARGS, NULL},
    {"codes_of_labels", codes_of_labels, METH_VARARGS, NULL},
    {"join_lines", join_lines, METH_VARARGS, NULL},
    {"add_pixels", add_pixels, METH_VARARGS, NULL},
    {"cell_means", cell_means, METH_VARARGS, NULL},
    {"class_sums", class_sums, METH_VARARGS, NULL},
    {"finalise", finalise, METH_VARARGS, NULL},
    {"scaled_ratio", scaled_ratio, METH_VARARGS, NULL},
    {"numbers", numbers, METH_VARARGS, NULL},
    {"upsample_twice", upsample_twice, METH_VARARGS, NULL},
    {"count_known", count_known, METH_VARARGS, NULL},
    {"fill_gaps", fill_gaps, METH_VARARGS, NULL},
    {"median_of_two", median_of_two, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_pixel_loops", "Loops over pixels, see the head of the file.", 0, loops, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__pixel_loops(void) { return PyModuleDef_Init(&definition); }
