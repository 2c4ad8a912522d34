package com.github.teamtoken;

import com.github.teamtoken.v1.TeamToken;

/**
 * A token that was made.
 *
 * @param requestId the same call under it is given the same answer, for ten minutes
 */
public record NewToken(TeamToken token, Secret secret, String requestId) {}
