# A release of the models as nothing but files, for k8s/components/image-volume:
#   docker build -f docker/models.Dockerfile .
FROM scratch
COPY model_repository /
USER 10001:10001
