# Redis with the settings that a cache of predictions needs; redis.conf says why each.
ARG REDIS_IMAGE=redis:7-bookworm
FROM ${REDIS_IMAGE}
COPY docker/redis.conf /etc/labeling-ground/redis.conf
USER redis
WORKDIR /tmp
EXPOSE 6379
# An entrypoint of the base image would want to be root first; there is nothing to prepare here.
ENTRYPOINT []
CMD ["redis-server", "/etc/labeling-ground/redis.conf"]
