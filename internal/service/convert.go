package service

import (
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	teamtokenv1 "github.com/teamtoken/teamtoken/gen/go/teamtoken/v1"
	"github.com/teamtoken/teamtoken/internal/upstream"
)

var creatorKinds = map[string]teamtokenv1.Creator_Kind{
	"users":         teamtokenv1.Creator_KIND_USER,
	"teams":         teamtokenv1.Creator_KIND_TEAM,
	"organizations": teamtokenv1.Creator_KIND_ORGANIZATION,
}

func toProto(t upstream.Token) *teamtokenv1.TeamToken {
	p := &teamtokenv1.TeamToken{
		Id:          t.ID,
		TeamId:      t.TeamID,
		Description: t.Description,
		CreatedAt:   toTimestamp(t.CreatedAt),
		LastUsedAt:  toTimestamp(t.LastUsedAt),
		ExpiredAt:   toTimestamp(t.ExpiredAt),
	}
	if t.CreatedBy.ID != "" {
		p.CreatedBy = &teamtokenv1.Creator{Id: t.CreatedBy.ID, Kind: creatorKinds[t.CreatedBy.Type]}
	}
	return p
}

func toTimestamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}
