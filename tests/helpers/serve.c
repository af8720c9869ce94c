/* Answers one request with TensorFlow's C library alone.

   serve MODEL DENSE_OP SPARSE_OP OUTPUT_OP OUTPUT_INDEX ROWS N_DENSE WIDTH < numbers

   Standard input has ROWS * N_DENSE floats and ROWS * WIDTH ids; prints ROWS probabilities. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <tensorflow/c/c_api.h>

static TF_Status *status;

static void check(const char *what) {
  if (TF_GetCode(status) != TF_OK) {
    fprintf(stderr, "%s: %s\n", what, TF_Message(status));
    exit(1);
  }
}

static TF_Output operation(TF_Graph *graph, const char *name, int index) {
  TF_Output found = {TF_GraphOperationByName(graph, name), index};
  if (!found.oper) {
    fprintf(stderr, "no operation %s\n", name);
    exit(1);
  }
  return found;
}

int main(int argc, char **argv) {
  if (argc != 9) return 2;
  int64_t rows = atoll(argv[6]), n_dense = atoll(argv[7]), width = atoll(argv[8]);
  status = TF_NewStatus();
  TF_Graph *graph = TF_NewGraph();
  TF_SessionOptions *options = TF_NewSessionOptions();
  const char *tags[] = {"serve"};
  TF_Session *session = TF_LoadSessionFromSavedModel(options, NULL, argv[1], tags, 1, graph, NULL, status);
  check("load");

  int64_t dense_shape[] = {rows, n_dense}, sparse_shape[] = {rows, width};
  TF_Tensor *dense = TF_AllocateTensor(TF_FLOAT, dense_shape, 2, rows * n_dense * sizeof(float));
  TF_Tensor *sparse = TF_AllocateTensor(TF_INT64, sparse_shape, 2, rows * width * sizeof(int64_t));
  float *values = TF_TensorData(dense);
  int64_t *ids = TF_TensorData(sparse);
  for (int64_t i = 0; i < rows * n_dense; i++)
    if (scanf("%f", &values[i]) != 1) return 2;
  for (int64_t i = 0; i < rows * width; i++)
    if (scanf("%" SCNd64, &ids[i]) != 1) return 2;

  TF_Output inputs[] = {operation(graph, argv[2], 0), operation(graph, argv[3], 0)};
  TF_Output outputs[] = {operation(graph, argv[4], atoi(argv[5]))};
  TF_Tensor *fed[] = {dense, sparse}, *answer[1];
  TF_SessionRun(session, NULL, inputs, fed, 2, outputs, answer, 1, NULL, 0, NULL, status);
  check("run");
  const float *probabilities = TF_TensorData(answer[0]);
  for (int64_t i = 0; i < rows; i++) printf("%.9g\n", probabilities[i]);
  return 0;
}
